"""What keeps a deep decoder at unit scale, and what does not.

    python benchmarks/depth.py init [TRIAL …]       # 24 layers at initialisation, forward and backward
    python benchmarks/depth.py train [TRIAL …]      # loss after some hundred steps, and how far the scales moved
    python benchmarks/depth.py report               # the tables

Averages over previous positions are similar from one position to the next: the mean of a text's first 500 values shares
499 terms with the mean of 499. If a factor or a norm brings such averages back to unit scale, two thirds of their
variance is common to all positions. It adds up in the stream, and the values of the next layer contain it too. The
gradients of queries, keys and values depend on differences between positions, and shrink. The trials vary what
attention does with its averages. Results are written to results/depth.json one by one; a second call continues there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from allometry import nn
from allometry.data.corpus import read_corpus
from allometry.files import replace_file
from allometry.nn import functional as F
from allometry.tasks.windows import Windows, held_out_windows

RESULTS = Path(__file__).parent / "results" / "depth.json"
VOCAB = 256
SHOWN = (1, 6, 12, 18, 24)


@dataclass(frozen=True)
class Trial:
    """One way to build the attention branch; the default is the library's."""

    about: str
    norm: str = "pre"  # of the block
    sub: str = "row"  # the norm before the output projection: "row", "head", "inner" (of the average alone) or "none"
    gain: str = "none"  # "row": the static gain of each row; "count": √(number of keys)
    centre: str = "none"  # "values": less the mean of the values before; "output": less the mean of those averaged
    own: float = 0.0  # weight of the token's own value next to the average, squares summing to 1
    gate: str = "none"  # what multiplies the normed average: "own" value, "silu" or "linear" of one more projection
    qk_norm: bool = False
    multiplier: float = 1.0
    window: int | None = None
    alpha_ratio: float = 1.0
    alpha_res: float = 1.0


TRIALS = {
    "sub": Trial("pre-norm and sub-norm: the library's"),
    "pre": Trial("pre-norm only, no gain", sub="none"),
    "pre gain": Trial("pre-norm only, each row times its static gain", sub="none", gain="row"),
    "pre count": Trial("pre-norm only, each row times √(number of keys)", sub="none", gain="count"),
    "post": Trial("norm at the end of the branch instead", norm="post", sub="none"),
    "sub gain": Trial("sub-norm, behind the static gain", gain="row"),
    "sub head": Trial("sub-norm of each head", sub="head"),
    "qk": Trial("sub-norm, queries and keys normed", qk_norm=True),
    "sharp": Trial("sub-norm, logits × 3", multiplier=3.0),
    "light": Trial("sub-norm, attention weighed half", alpha_ratio=0.5),
    "lighter": Trial("sub-norm, attention weighed an eighth", alpha_ratio=0.125),
    "window": Trial("sub-norm, a window of 64 positions, static gain", window=64, gain="row"),
    "values": Trial("sub-norm, values less the mean of those before", centre="values"),
    "own": Trial("sub-norm, half the variance the token's own value, static gain", own=0.5**0.5, gain="row"),
    "centred": Trial(
        "own value and the average less the plain mean, static gain", own=0.5**0.5, gain="row", centre="output"
    ),
    "centred bare": Trial("the same without the sub-norm", sub="none", own=0.5**0.5, gain="row", centre="output"),
    "gate own": Trial("sub-norm, times the token's own value", gain="row", gate="own"),
    "gate silu": Trial("sub-norm, times the SiLU of one more projection", gain="row", gate="silu"),
    "gate linear": Trial("sub-norm, times one more projection", gain="row", gate="linear"),
    "sub half": Trial("sub-norm, all branches weighed half against the embedding", alpha_res=0.5),
    "values half": Trial("values less the mean before, sub-norm, branches half", centre="values", alpha_res=0.5),
    "centred half": Trial(
        "own value and centred average, sub-norm, branches half",
        own=0.5**0.5,
        gain="row",
        centre="output",
        alpha_res=0.5,
    ),
    "inner half": Trial(
        "own value and the norm of the centred average, branches half",
        sub="inner",
        own=0.5**0.5,
        gain="row",
        centre="output",
        alpha_res=0.5,
    ),
    "inner third": Trial(
        "own value with 2/5 of the variance and the norm of the centred average, branches 0.35",
        sub="inner",
        own=0.4**0.5,
        gain="row",
        centre="output",
        alpha_res=0.35,
    ),
    "inner plain": Trial(
        "own value and the norm of the average, not centred, branches half", sub="inner", own=0.5**0.5, alpha_res=0.5
    ),
    "inner bare": Trial(
        "the norm of the centred average, no own value, branches half",
        sub="inner",
        gain="row",
        centre="output",
        alpha_res=0.5,
    ),
    "gate silu half": Trial("sub-norm, times a SiLU gate, branches half", gain="row", gate="silu", alpha_res=0.5),
}


class Watch:
    """Root mean square, and share of the mean over positions, of named tensors by layer, and of their gradients."""

    def __init__(self):
        self.rms, self.common = defaultdict(list), defaultdict(list)

    def __call__(self, name: str, x: Tensor) -> None:
        self._add(name, x)
        if x.requires_grad:
            x.register_hook(lambda grad: self._add(f"d {name}", grad))

    @torch.no_grad()
    def _add(self, name: str, x: Tensor) -> None:
        square = float(x.double().square().mean())
        self.rms[name].append(math.sqrt(square))
        if x.dim() > 2:  # (…, positions, features)
            self.common[name].append(float(x.double().mean(-2).square().mean()) / max(square, 1e-300))

    def attach(self, model: nn.Decoder) -> list:
        handles = []

        def before(module: torch.nn.Module, name: str) -> None:
            handles.append(module.register_forward_pre_hook(lambda _, inputs: self(name, inputs[0])))

        def after(module: torch.nn.Module, name: str) -> None:
            handles.append(module.register_forward_hook(lambda _, __, output: self(name, output)))

        for block in model.stack.blocks:
            before(block, "stream")
            before(block.attention.qkv, "attention in")
            after(block.attention.qkv, "qkv")
            before(block.attention.out, "out in")
            before(block.mlp.up, "mlp in")
            after(block.mlp.up, "up")
            before(block.mlp.down, "down in")
            block.attention.watch = self
        before(model.readout, "readout in")
        after(model.readout, "logits")
        return handles

    def result(self) -> dict:
        """By name, a number for each layer, first to last."""

        def ordered(result: dict) -> dict:
            return {k: [float(f"{v:.3g}") for v in (v[::-1] if k.startswith("d ") else v)] for k, v in result.items()}

        return {"rms": ordered(self.rms), "common": ordered(self.common)}


def normed(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Each row at root mean square 1."""
    return F.rms_norm(x, x.shape[-1:], eps=eps)


class TrialAttention(nn.Attention):
    """Attention as the trial wants it."""

    def __init__(self, width: int, heads: int, trial: Trial):
        super().__init__(width, heads, qk_norm=trial.qk_norm, window=trial.window, multiplier=trial.multiplier)
        self.trial, self.watch = trial, lambda name, x: None
        if trial.gate in ("silu", "linear"):
            self.qkv = nn.Linear(width, 4 * width)

    def forward(self, x, rotation=None, onto=None, keep=1.0, share=1.0):
        _, length, _ = x.shape
        trial = self.trial
        parts = self.qkv(x).unflatten(-1, (-1, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        q, k, v = parts[:3]
        if self.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        rotation = rotation or self.rotation(length, q)
        q, k = F.rope(q, *rotation), F.rope(k, *rotation)
        for name, value in (("q", q), ("k", k), ("v", v)):
            self.watch(name, value)
        y = self.average(q, k, v)
        self.watch("average", y)
        if trial.sub == "head":
            y = F.rms_norm(y, y.shape[-1:])
        if trial.gate != "none" and trial.sub == "row":
            y = self.rows(normed(self.columns(y)))
        if trial.gate == "own":
            y = y * v
        elif trial.gate == "linear":
            y = y * parts[3]
        elif trial.gate == "silu":
            y = y * torch.nn.functional.silu(parts[3]) * nn.exact_scale(torch.nn.functional.silu).forward
        y = self.columns(y)
        if trial.gate == "none" and trial.sub == "row":
            y = self.norm(y)
        return self.out(y, onto, keep, share)

    def average(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        trial, length = self.trial, q.shape[2]
        counts = torch.arange(1, length + 1.0)[:, None]
        if trial.centre == "values":
            values = v - (v.cumsum(2) - v) / (counts - 1).clamp(min=1)
        else:
            values = v
        y = F.attention(q, k, values, window=self.window, multiplier=self.multiplier()[0], scaled=False)
        if trial.centre == "output":
            y = y - v.cumsum(2) / counts
        if trial.gain == "count":
            y = y * counts.sqrt()
        elif trial.gain == "row":
            y = y * gains(length, self.head_dim, trial)
        if trial.sub == "inner":
            self.watch("raw", y)
            # A first row less its own mean is 0: an eps that keeps the gradient there finite.
            y = self.rows(normed(self.columns(y), eps=0.1))
        if trial.own:
            y = math.sqrt(1 - trial.own**2) * y + trial.own * v
        return y

    def columns(self, y: Tensor) -> Tensor:
        return y.transpose(1, 2).flatten(2)

    def rows(self, y: Tensor) -> Tensor:
        return y.unflatten(2, (self.heads, self.head_dim)).transpose(1, 2)


@lru_cache(maxsize=8)
def gains(length: int, head_dim: int, trial: Trial) -> Tensor:
    """The static gain of each row (length, 1): over independent values its output has root mean square 1."""
    q, ones = torch.zeros(1, 1, length, head_dim), torch.ones(1, 1, length, 1)
    options = {"window": trial.window, "multiplier": trial.multiplier, "qk_norm": trial.qk_norm}
    gain = F.attention(q, q, ones, **options)[0, 0]
    if trial.centre == "output":  # Σ(p − 1/n)² = Σp² − 1/n, zero for a single key
        excess = gain**-2 - 1 / torch.arange(1, length + 1.0)[:, None]
        gain = torch.where(torch.arange(length)[:, None] > 0, excess.clamp(min=1e-9).rsqrt(), 0.0)
    return gain


def make(trial: Trial, layers: int, width: int, heads: int, seed: int) -> nn.Decoder:
    torch.manual_seed(seed)
    model = nn.Decoder(VOCAB, layers, width, heads, norm=trial.norm)
    for block in model.stack.blocks:
        block.attention = TrialAttention(width, heads, trial)
    return nn.parametrize(model, "umup", nn.Base(alpha_res=trial.alpha_res, alpha_ratio=trial.alpha_ratio))


def measure(model: nn.Decoder, tokens: Tensor, targets: Tensor) -> dict:
    watch = Watch()
    handles = watch.attach(model)
    loss = objective(model, tokens, targets)
    loss.backward()
    model.zero_grad()
    for handle in handles:
        handle.remove()
    for block in model.stack.blocks:
        block.attention.watch = lambda name, x: None
    return {"loss": loss.item(), **watch.result()}


def objective(model: nn.Decoder, tokens: Tensor, targets: Tensor) -> Tensor:
    return nn.CrossEntropyLoss()(model(tokens).flatten(0, 1), targets.flatten())


@lru_cache(maxsize=1)
def corpus():
    return read_corpus("stdlib")


def batch_of(kind: str, length: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    if kind == "text":
        return Windows(corpus().train, length, seed).batch(0, size)
    tokens = torch.randint(VOCAB, (size, length + 1), generator=torch.Generator().manual_seed(seed))
    return tokens[:, :-1], tokens[:, 1:]


def train(trial: Trial, options: argparse.Namespace, seed: int) -> dict:
    began = time.perf_counter()
    model = make(trial, options.layers, options.width, options.heads, seed)
    optimizer = nn.AdamW(model, options.lr)
    windows = Windows(corpus().train, options.length, seed)
    warmup, losses = options.steps // 10, []
    start = measure(model, *windows.batch(0, options.batch))
    for step in range(options.steps):
        optimizer.set_schedule(min((step + 1) / warmup, (options.steps - step) / (options.steps - warmup)))
        loss = objective(model, *windows.batch(step * options.batch, options.batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    inputs, targets = held_out_windows(corpus().held_out, options.length, options.held_out)
    with torch.no_grad():
        parts = [objective(model, *pair).item() for pair in zip(inputs.split(16), targets.split(16), strict=True)]
    end = measure(model, *windows.batch(options.steps * options.batch, options.batch))
    return {
        "held_out": sum(parts) / len(parts),
        "train_last_50": sum(losses[-50:]) / 50,
        "seconds": round(time.perf_counter() - began),
        "start": start,
        "end": end,
    }


def load() -> dict:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"init": {}, "train": {}}


def save(kind: str, key: str, value: dict) -> None:
    results = load()  # anew: another process may have added to it
    results[kind][key] = value
    results["versions"] = {"torch": torch.__version__, "python": platform.python_version()}
    results["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, 1 thread"
    results["trials"] = {name: asdict(trial) for name, trial in TRIALS.items()}
    replace_file(RESULTS, json.dumps(results).encode())


def run_init(options: argparse.Namespace) -> None:
    for seed in range(options.seeds):
        for kind in ("text", "random"):
            for name in options.trials or TRIALS:
                key = f"{name} | {kind} | {options.layers}x{options.width} S{options.length} | seed {seed}"
                if key in load()["init"]:
                    continue
                model = make(TRIALS[name], options.layers, options.width, options.heads, seed)
                result = measure(model, *batch_of(kind, options.length, 1, seed))
                save("init", key, result)
                print(line(key, result), flush=True)


def run_train(options: argparse.Namespace) -> None:
    for seed in range(options.seeds):
        for name in options.trials or ("sub", "pre", "post"):
            shape = f"{options.layers}x{options.width} S{options.length} B{options.batch}"
            key = f"{name} | {shape} | {options.steps} steps, lr {options.lr:g} | seed {seed}"
            if key in load()["train"]:
                continue
            result = train(TRIALS[name], options, seed)
            save("train", key, result)
            print(f"{key}: held out {result['held_out']:.4f}, {result['seconds']} s", flush=True)


NAMES = ("stream", "q", "k", "v", "average", "out in", "mlp in", "up", "down in")


def line(key: str, result: dict) -> str:
    """Layers 1, 6, …: one row a tensor."""
    rms = result["rms"]
    lines = [f"{key}: loss {result['loss']:.3f}, logits {rms['logits'][0]:.3f}"]
    for name in (*NAMES, *(f"d {name}" for name in NAMES)):
        values = rms[name]
        picked = [values[i - 1] for i in SHOWN if i <= len(values)]
        common = result["common"].get(name, [0.0])
        shares = [common[i - 1] for i in SHOWN if i <= len(common)]
        lines.append(
            f"  {name:10} " + " ".join(f"{v:6.3f}" for v in picked) + f"   [{min(values):.3f}, {max(values):.3f}]"
            "   common " + " ".join(f"{v:4.2f}" for v in shares)
        )
    return "\n".join(lines)


COLUMNS = ("average", "out in", "d q", "d k", "d v", "d average", "d stream")
HEALTHY = (0.7, 1.4)


def report(options: argparse.Namespace) -> None:
    results = load()
    for kind in ("text", "random"):
        print(f"\n{kind}: least and greatest root mean square over layers and seeds; share common to all positions\n")
        print("| trial | " + " | ".join(COLUMNS) + " | stream common | outside 0.7–1.4 |")
        print("|---" * (len(COLUMNS) + 3) + "|")
        for name, runs in grouped(results["init"], kind).items():
            spans = pooled([run["rms"] for run in runs])
            outside = [key for key, span in spans.items() if span[0] < HEALTHY[0] or span[1] > HEALTHY[1]]
            share = max(max(run["common"]["stream"]) for run in runs)
            cells = [name, *(show(spans[c]) for c in COLUMNS), f"{share:.2f}", f"{len(outside)} of {len(spans)}"]
            print("| " + " | ".join(cells) + " |")
    print("\n| trained | seeds | held-out loss | start: forward | gradients | end: forward | gradients |")
    print("|---" * 7 + "|")
    for name, runs in grouped(results["train"]).items():
        losses = [run["held_out"] for run in runs]
        cells = [name, str(len(runs)), ", ".join(f"{loss:.3f}" for loss in losses)]
        for when in ("start", "end"):
            spans = pooled([run[when]["rms"] for run in runs])
            for gradient in (False, True):
                chosen = [v for k, v in spans.items() if k.startswith("d ") == gradient and "logits" not in k]
                cells.append(show((min(v[0] for v in chosen), max(v[1] for v in chosen))))
        print("| " + " | ".join(cells) + " |")


def grouped(runs: dict, kind: str | None = None) -> dict[str, list[dict]]:
    """Runs by all that they are but the seed."""
    groups = defaultdict(list)
    for key, run in runs.items():
        parts = key.split(" | ")[:-1]
        if kind is None or kind in parts:
            groups[", ".join(p for p in parts if p != kind)].append(run)
    return groups


def pooled(runs: list[dict]) -> dict[str, tuple[float, float]]:
    """The least and the greatest number of each tensor."""
    return {name: (min(min(run[name]) for run in runs), max(max(run[name]) for run in runs)) for name in runs[0]}


def show(span: tuple[float, float]) -> str:
    return f"{span[0]:.2f}–{span[1]:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("init", run_init), ("train", run_train)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("trials", nargs="*", metavar="TRIAL", help=", ".join(TRIALS))
        small = name == "train"
        command.add_argument("--layers", type=int, default=8 if small else 24)
        command.add_argument("--width", type=int, default=64 if small else 256)
        command.add_argument("--heads", type=int, default=4)
        command.add_argument("--length", type=int, default=128 if small else 1024)
        command.add_argument("--seeds", type=int, default=2)
        if small:
            command.add_argument("--batch", type=int, default=8)
            command.add_argument("--steps", type=int, default=500)
            command.add_argument("--lr", type=float, default=0.5)
            command.add_argument("--held-out", type=int, default=128, help="windows to judge by")
    commands.add_parser("report").set_defaults(run=report)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.run(options)


if __name__ == "__main__":
    main()
