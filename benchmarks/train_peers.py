"""How fast we train a small language model on a CPU, compared with what people use.

    python benchmarks/train_peers.py speed [--sizes 0.2M 1M 5M 10M] [--threads 2] [--rounds 5]
    python benchmarks/train_peers.py loss [--sizes 0.2M 1M] [--tokens 300000]

All have the same width, layers, heads, batch, context and threads, on the same text (the standard library's sources as
bytes):

- `ours`: the engine as a ladder uses it (compiled kernels, BF16 if that is a tenth faster);
- `trainer`: Hugging Face's Trainer with GPT2LMHeadModel, both with their defaults;
- `compiled`: a plain PyTorch loop with torch.compile, fused AdamW, FP32 and no dropout, over a plain GPT-2.

`speed` interleaves them A B C A B C, some steps each; a ratio is the median over rounds of neighbours' tokens a second.
Building, compiling and warming up are excluded and reported. `loss` is the loss of held-out text after the same number
of tokens: ours at the recipe's default learning rate, `compiled` at four learning rates with warmup and linear decay,
`trainer` at its default learning rate. Results are merged into one file. Needs `pip install transformers accelerate`
(the extra `benchmark`).
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the engine starts its processes
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allometry.config.model import DecoderConfig
from allometry.config.run import RunConfig
from allometry.config.task import TextConfig
from allometry.data.corpus import Corpus, read_corpus
from allometry.files import write_json
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape
from allometry.lm import device as devices
from allometry.lm.training.gradients import Pieces
from allometry.lm.training.member import Member
from allometry.lm.training.training_step import advance
from allometry.tasks.text import TextTask
from allometry.tasks.windows import Windows, held_out_windows

RESULTS = Path(__file__).parent / "results" / "train_peers.json"
SIZES = {"0.2M": (64, 8), "1M": (144, 16), "5M": (256, 16), "10M": (352, 32)}  # width, sequences in a batch
CONTEXT, WARM, RATES = 128, 3, (3e-4, 6e-4, 1e-3, 2e-3)
SEGMENT = 1.5  # seconds of each contestant in a round


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT2(nn.Module):
    """GPT-2 as plain PyTorch: LayerNorm, learned positions, GELU, tied embeddings, its initialisation."""

    def __init__(self, model: DecoderConfig):
        super().__init__()
        self.tokens, self.places = (
            nn.Embedding(model.vocab_size, model.width),
            nn.Embedding(model.context, model.width),
        )
        self.blocks = nn.ModuleList(Block(model.width, model.heads) for _ in range(model.layers))
        self.norm = nn.LayerNorm(model.width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * model.layers) ** 0.5 if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.tokens.weight.t()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def our_config(model: DecoderConfig, batch: int, tokens: int, precision: str) -> RunConfig:
    recipe = Recipe(batch_tokens=batch * CONTEXT, batch_exponent=0.0, precision=precision, compile=True)
    return recipe.run(model, TextConfig(source="stdlib", fingerprint=""), tokens, 0)


def begin_training(config: RunConfig, corpus: Corpus) -> Pieces:
    """A model at the beginning of its training, as the gradients that its step takes."""
    return Pieces(Member.fresh(config, TextTask.of(corpus, config), devices.mine()))


class Ours:
    """The engine's own loop, data included."""

    def __init__(self, model: DecoderConfig, batch: int, corpus: Corpus):
        begin = time.perf_counter()
        candidates = {}
        for precision in ("fp32", "bf16"):
            self.config = our_config(model, batch, 10**9, precision)
            self.pieces = begin_training(self.config, corpus)
            self.run(WARM)
            candidates[precision] = self.run(6), self.pieces, self.config
        self.precision = "bf16" if candidates["bf16"][0] > 1.1 * candidates["fp32"][0] else "fp32"
        _, self.pieces, self.config = candidates[self.precision]
        self.ready = time.perf_counter() - begin

    def run(self, steps: int) -> float:
        """Tokens a second over some steps."""
        member = self.pieces.member
        begin, before = time.perf_counter(), member.meter.step
        advance([member], [self.config], self.pieces, before + steps, lambda: None)
        return steps * self.config.train.batch_tokens / (time.perf_counter() - begin)


class Compiled:
    """What a person who knows PyTorch writes."""

    def __init__(self, model: DecoderConfig, batch: int, corpus: Corpus, lr: float = 1e-3):
        begin = time.perf_counter()
        torch.manual_seed(0)
        self.model, self.batch, self.step = GPT2(model), batch, 0
        self.compiled = torch.compile(self.model)
        self.windows = Windows(corpus.train, CONTEXT, 0)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.run(WARM)
        self.ready = time.perf_counter() - begin

    def run(self, steps: int, rate: Callable[[int], float] | None = None) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            if rate is not None:
                self.optimizer.param_groups[0]["lr"] = rate(self.step)
            loss = self.compiled(*self.windows.batch(self.step * self.batch, self.batch))
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
        loss.item()
        return steps * self.batch * CONTEXT / (time.perf_counter() - begin)

    def held_out(self, windows: tuple[Tensor, Tensor]) -> float:
        with torch.no_grad():
            return evaluate_peer(lambda x, y: self.model(x, y).item(), windows)


class Trainer:
    """Hugging Face's Trainer as it comes; its time is that between the steps it reports."""

    def __init__(self, model: DecoderConfig, batch: int, corpus: Corpus):
        import transformers

        logging.disable(logging.WARNING)
        transformers.utils.logging.disable_progress_bar()
        begin = time.perf_counter()
        self.batch, self.library, self.windows = batch, transformers, Windows(corpus.train, CONTEXT, 0)
        settings = transformers.GPT2Config(
            vocab_size=model.vocab_size,
            n_positions=model.context,
            n_embd=model.width,
            n_layer=model.layers,
            n_head=model.heads,
            bos_token_id=0,
            eos_token_id=0,
        )
        transformers.set_seed(0)
        self.model = transformers.GPT2LMHeadModel(settings)
        self.ready = time.perf_counter() - begin

    def run(self, steps: int, warm: int = WARM) -> float:
        """Tokens a second over some steps, after as many of warming up: a Trainer cannot be left and gone on with."""
        times: list[float] = []

        class Clock(self.library.TrainerCallback):
            def on_step_end(self, *_, **__):
                times.append(time.perf_counter())

        inputs, _ = self.windows.batch(0, self.batch * (steps + warm))
        rows = [{"input_ids": row, "labels": row} for row in inputs]
        with tempfile.TemporaryDirectory() as folder:
            arguments = self.library.TrainingArguments(
                output_dir=folder,
                max_steps=steps + warm,
                per_device_train_batch_size=self.batch,
                use_cpu=True,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            self.library.Trainer(self.model, arguments, train_dataset=rows, callbacks=[Clock]).train()
        return steps * self.batch * CONTEXT / (times[-1] - times[warm - 1]) if warm else 0.0

    def held_out(self, windows: tuple[Tensor, Tensor]) -> float:
        self.model.eval()
        with torch.no_grad():
            logits = lambda x: self.model(input_ids=x).logits.flatten(0, 1)
            return evaluate_peer(lambda x, y: F.cross_entropy(logits(x), y.flatten()).item(), windows)


def evaluate_peer(loss: Callable[[Tensor, Tensor], float], windows: tuple[Tensor, Tensor]) -> float:
    """Mean loss over held-out windows, in nats a token."""
    batches = zip(windows[0].split(32), windows[1].split(32), strict=True)
    return sum(loss(x, y) * len(x) for x, y in batches) / len(windows[0])


def measure_speed(size: str, threads: int, rounds: int, corpus: Corpus) -> dict[str, object]:
    width, batch = SIZES[size]
    model = shape(width, CONTEXT)
    contestants = {
        "ours": Ours(model, batch, corpus),
        "compiled": Compiled(model, batch, corpus),
        "trainer": Trainer(model, batch, corpus),
    }
    steps = {name: max(4, round(SEGMENT * one.run(4) / (batch * CONTEXT))) for name, one in contestants.items()}
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    gc.collect()
    for _ in range(rounds):
        for name, one in contestants.items():
            speeds[name].append(one.run(steps[name]))
    over = lambda peer: [a / b for a, b in zip(speeds["ours"], speeds[peer], strict=True)]
    return {
        "num_params": model.num_params,
        "shape": f"width {width}, {model.layers} layers, {model.heads} heads, {batch} × {CONTEXT} tokens",
        "threads": threads,
        "precision of ours": contestants["ours"].precision,
        **{f"{name}, tokens/s": round(statistics.median(values)) for name, values in speeds.items()},
        **{f"{name}, s to the first step": round(one.ready, 1) for name, one in contestants.items()},
        **{f"ours/{peer}": round(statistics.median(over(peer)), 2) for peer in ("trainer", "compiled")},
        **{f"ours/{peer}, range": [round(f(over(peer)), 2) for f in (min, max)] for peer in ("trainer", "compiled")},
        "rounds": rounds,
    }


def measure_loss(size: str, tokens: int, corpus: Corpus) -> dict[str, object]:
    width, batch = SIZES[size]
    model = shape(width, CONTEXT)
    windows = held_out_windows(corpus.held_out, CONTEXT, 512)
    steps = tokens // (batch * CONTEXT)
    result: dict[str, object] = {"tokens": steps * batch * CONTEXT}
    for precision in ("fp32", "bf16"):
        config = our_config(model, batch, steps * batch * CONTEXT, precision)
        pieces = begin_training(config, corpus)
        member = pieces.member
        advance([member], [config], pieces, config.schedule.steps, lambda: None)
        result[f"ours, {precision}"] = round(member.task.evaluate(member.model)["loss"].value, 4)
    warm = max(1, steps // 20)
    for lr in RATES:
        torch.compiler.reset()
        peer = Compiled(model, batch, corpus, lr)
        peer.run(
            steps - peer.step,
            lambda step, lr=lr: lr * min(1, (step + 1) / warm) * (1 - max(0, step - warm) / (steps - warm)),
        )
        result[f"compiled, rate {lr:g}"] = round(peer.held_out(windows), 4)
    peer = Trainer(model, batch, corpus)
    peer.run(steps, warm=0)
    result["trainer"] = round(peer.held_out(windows), 4)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "loss"))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    corpus = read_corpus("stdlib")
    for size in given.sizes:
        if given.what == "speed":
            key, row = f"{size}, {given.threads} threads", measure_speed(size, given.threads, given.rounds, corpus)
        else:
            key, row = size, measure_loss(size, given.tokens, corpus)
        print(given.what, key, json.dumps(row, indent=1), flush=True)
        result = json.loads(given.output.read_text()) if given.output.exists() else {}
        result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, PyTorch {torch.__version__}"
        result.setdefault(given.what, {})[key] = row
        write_json(given.output, result)


if __name__ == "__main__":
    main()
