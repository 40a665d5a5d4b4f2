"""A program of a user's, for tests: its loss follows a law of its arguments; it does as ``--act`` says."""

import argparse
import json
import math
import os
import random
import sys
import time
from pathlib import Path


def truth(num_params: float, tokens: float) -> float:
    return 1.8 + 40 / num_params**0.3 + 60 / tokens**0.3


def result(a: argparse.Namespace) -> dict:
    size = 24 * a.width**2
    rng = random.Random(f"{a.width} {a.tokens} {a.seed}")
    off = math.log(a.lr / (0.01 * (a.width / 16) ** -0.5)) ** 2
    seen = a.tokens
    if a.unique and a.tokens > a.unique:  # what is read again teaches less and less (arXiv 2305.16264, R_D = 8)
        seen = a.unique * (1 + 8 * (1 - math.exp(-(a.tokens / a.unique - 1) / 8)))
    loss = truth(size, seen) * (1 + 0.02 * off) * math.exp(0.001 * rng.gauss(0, 1))
    return {"loss": loss, "num_params": size, "width": a.width, "seed": a.seed}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("width", "tokens", "seed"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--unique", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--act", default="json")
    parser.add_argument("--extra", default="")
    parser.add_argument("--resume", action="store_true")
    a = parser.parse_args()
    print(f"width {a.width}", flush=True)
    value, act = result(a), a.act
    if act == "fail":
        print("CUDA out of memory", file=sys.stderr)
        sys.exit(3)
    if act == "flaky" and not (flag := a.out.parents[2] / "failed-once").exists():
        flag.touch()
        sys.exit(1)
    if act == "hang":
        time.sleep(600)
    if act == "silent":
        return
    if act == "resume":
        done = a.out / "steps"
        begun = int(done.read_text()) if a.resume else 0
        for step in range(begun, 100):
            part = done.with_suffix(".part")
            part.write_text(str(step + 1))
            part.replace(done)
            time.sleep(0.02)
        value["begun"] = begun
    if act in ("other_width", "other_seed"):
        value[act.removeprefix("other_")] += 1
    changes = {
        "nan": {"loss": math.nan},
        "text": {"loss": "low"},
        "null": {"loss": None},
        "negative": {"num_params": -5},
        "constant": {"num_params": 1000},
        "other_tokens": {"tokens": a.tokens * 3},
        "environment": {"cuda": os.environ.get("CUDA_VISIBLE_DEVICES"), "extra": os.environ.get("EXTRA")},
        "shell": {"extra": a.extra},
        "scores": {"test": {"accuracy": 0.5, "accuracy_se": 0.1}},
    }
    value |= changes.get(act, {})
    if act == "no_size":
        del value["num_params"]
    rows = lambda: [{"tokens": a.tokens * n // 4, "train_loss": value["loss"] + 4 - n} for n in (1, 2, 3, 4)]
    if act == "jsonl":
        (a.out / "m.jsonl").write_text("\n".join(map(json.dumps, [*rows(), value])) + '\n{"loss": 9')
    elif act == "csv":
        lines = ["tokens,train_loss,loss,num_params", *(f"{r['tokens']},{r['train_loss']},," for r in rows())]
        (a.out / "m.csv").write_text("\n".join([*lines, f"{a.tokens},,{value['loss']},{value['num_params']}"]))
    elif act == "stdout":
        print(f"number of parameters: {value['num_params']:,}\nval loss 9.9\nval loss {value['loss']}")
    elif act == "empty":
        (a.out / "m.json").write_text("")
    elif act == "cut":
        (a.out / "m.json").write_text(json.dumps(value)[:20])
    elif act == "deep":
        (a.out / "m.json").write_text("[" * 100_000)
    elif act == "list":
        (a.out / "m.json").write_text(json.dumps([{"loss": 9.0}, value]))
    else:
        (a.out / "m.json").write_text(json.dumps(value))
    if act == "stale":
        os.utime(a.out / "m.json", (1, 1))


if __name__ == "__main__":
    main()
