"""Wall time of a whole ladder, ours and one run after another of Hugging Face's Trainer, and where the gain comes from.

    python benchmarks/ladder_peers.py [total] [processor] [parts] [batched] [--peer-python PYTHON] [--output FILE.json]

The ladder has five widths × three token counts, batch 4 × 128 tokens throughout, on the standard library's text. Ours
is trained as `allometry ladder` does it, timed from the start of its processes to the last record. The peer is
`GPT2LMHeadModel` of the same width, depth, heads, batch and context on two threads, with one process and a full run for
each point. The peer's total is steps × its measured seconds a step + its measured start and evaluation; one point is
run in full as a check. Its steps are timed before and after our ladder, and the faster is taken, because a busy machine
slows down two threads that wait for each other most.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from allometry.config.run import RunConfig
from allometry.config.task import TextConfig
from allometry.data import corpus as corpora
from allometry.files import write_json
from allometry.ladder.climb import missing_jobs
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape
from allometry.ladder.sweep import sweep_runs
from allometry.lm.training.gradients import Pieces
from allometry.lm.training.member import Member
from allometry.lm.training.step_seconds import step_seconds
from allometry.runs.engines.local import LocalEngine
from allometry.runs.study import Study
from allometry.tasks.catalog import task_named

WIDTHS, TOKENS, CONTEXT, SEQUENCES = (24, 32, 48, 64, 96), (100_000, 200_000, 400_000), 128, 4
RECIPE = Recipe(lr=0.4, batch_tokens=SEQUENCES * CONTEXT, batch_exponent=0.0, compile=True)  # the faster, as measured
PRECISIONS = ("fp32", "bf16")  # of the peer
TIMED_STEPS, HELD_OUT, PEER_LEARNING_RATE = 50, 512, 2e-3
HERE = Path(__file__).parent


def run(width: int, tokens: int, recipe: Recipe = RECIPE, fingerprint: str = "") -> RunConfig:
    return recipe.run(shape(width, CONTEXT), TextConfig(source="stdlib", fingerprint=fingerprint), tokens, 0)


def study(folder: Path, corpus: corpora.Corpus) -> Study:
    new_study = Study.create(folder, {"benchmark": "ladder_peers"})
    corpora.save_corpus(corpus, new_study.corpus_path)
    return new_study


def train(where: Study, configs: list[RunConfig], workers: int, threads: int, batched: bool = False) -> float:
    """Seconds from starting the processes to their end."""
    begin = time.perf_counter()
    with LocalEngine(workers, threads) as engine:
        engine.train(where, missing_jobs(where, configs, "ladder", batched))
        seconds = time.perf_counter() - begin
    return seconds


class Peer:
    def __init__(self, python: str, folder: Path, corpus: corpora.Corpus):
        self.python, self.folder = python, folder
        np.save(folder / "train.npy", np.asarray(corpus.train[: max(TOKENS) + 1]))
        np.save(folder / "held_out.npy", np.asarray(corpus.held_out[: HELD_OUT * CONTEXT]))

    def run(self, width: int, steps: int, evaluate: bool = True, precision: str = "fp32", threads: int = 2) -> dict:
        model = shape(width, CONTEXT)
        numbers = map(str, (model.width, model.layers, model.heads, CONTEXT, SEQUENCES, steps, PEER_LEARNING_RATE))
        command = [self.python, str(HERE / "ladder_peer_run.py"), "train.npy", *numbers]
        command += ["held_out.npy"] if evaluate else []
        command += ["--bf16"] if precision == "bf16" else []
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        begin = time.perf_counter()
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
        result = json.loads(done.stdout.splitlines()[-1])
        result["whole"] = time.perf_counter() - begin
        result["around"] = result["whole"] - result["first_to_last"] - result["evaluation"]  # start, first step, end
        return result


def total(folder: Path, corpus: corpora.Corpus, python: str) -> dict:
    """The wall time of both, the peer in each precision, and the check of the peer's estimate."""
    peer, where = Peer(python, folder, corpus), study(folder / "ours", corpus)
    configs = [run(width, tokens, fingerprint=corpus.fingerprint) for width in WIDTHS for tokens in TOKENS]
    cases = list(itertools.product(PRECISIONS, WIDTHS))
    before = {case: peer.run(case[1], TIMED_STEPS, precision=case[0]) for case in cases}
    ours = train(where, configs, workers=2, threads=1)
    after = {case: peer.run(case[1], TIMED_STEPS, precision=case[0]) for case in cases}
    each = {
        case: {key: min(before[case][key], after[case][key]) for key in ("step", "around", "evaluation")}
        for case in cases
    }
    steps = {tokens: run(24, tokens).schedule.steps for tokens in TOKENS}
    expected = lambda case, count: count * each[case]["step"] + each[case]["around"] + each[case]["evaluation"]
    width, tokens = 48, TOKENS[0]
    check = peer.run(width, steps[tokens])
    peers = {}
    for precision in PRECISIONS:
        points = [((precision, width), count) for width in WIDTHS for count in steps.values()]
        theirs = sum(expected(case, count) for case, count in points)
        stepping = sum(count * each[case]["step"] for case, count in points)
        peers[precision] = {
            "seconds": theirs,
            "ratio": theirs / ours,
            "seconds_of_steps_alone": stepping,
            "ratio_of_steps_alone": stepping / ours,
            "each": {str(width): each[precision, width] for width in WIDTHS},
        }
    return {
        "ours_seconds": ours,
        "peers": peers,
        "steps_each": list(steps.values()),
        "check": {
            "point": [width, tokens],
            "peer_whole_seconds": check["whole"],
            "estimated_seconds": expected(("fp32", width), steps[tokens]),
            "peer_loss": check["loss"],
            "our_loss": where.record(run(width, tokens, fingerprint=corpus.fingerprint).id).loss,
        },
        "versions": check["versions"],
    }


def processor(folder: Path, corpus: corpora.Corpus, python: str) -> dict:
    """The same by the processor's time, one thread each: it does not depend on what else the machine does."""
    peer, where = Peer(python, folder, corpus), study(folder / "ours", corpus)
    configs = [run(width, tokens, fingerprint=corpus.fingerprint) for width in WIDTHS for tokens in TOKENS]
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    begin = used()
    train(where, configs, workers=2, threads=1)
    ours = used() - begin
    steps = [run(24, tokens).schedule.steps for tokens in TOKENS]
    result: dict[str, object] = {"ours_seconds": ours}
    for precision in PRECISIONS:
        each = {}
        for width in WIDTHS:
            one = peer.run(width, TIMED_STEPS, precision=precision, threads=1)
            mine = own_step(width, precision)
            each[str(width)] = {
                "step": one["step_processor"],
                "around": one["around_processor"],
                "our_step": mine,
                "step_over_ours": one["step_processor"] / mine,
            }
        theirs = sum(len(steps) * case["around"] + sum(steps) * case["step"] for case in each.values())
        result[precision] = {"peer_seconds": theirs, "ratio": theirs / ours, "each": each}
    return result


def own_step(width: int, precision: str) -> float:
    """The processor's seconds of a step of ours, the lower quartile."""
    config = run(width, TOKENS[0], replace(RECIPE, precision=precision))
    member = Member.fresh(config, task_named(config.task.name).stand_in(config), torch.device("cpu"))
    gradients, times = Pieces(member), []
    torch.set_num_threads(1)
    while len(times) < TIMED_STEPS:
        begin = time.process_time()
        gradients.backward([(0, SEQUENCES)])
        member.optimizer.step()
        gradients.clear()
        times.append(time.process_time() - begin)
    return statistics.quantiles(times[5:], n=4)[0]


def parts(folder: Path, corpus: corpora.Corpus, python: str) -> dict:
    """Kernels, branches, packing: each gain by itself."""
    peer = Peer(python, folder, corpus)
    torch.set_num_threads(2)
    kernels = {}
    for width in WIDTHS:
        ours = [step_seconds(run(width, TOKENS[0]), budget=1.0)]
        theirs = peer.run(width, TIMED_STEPS, evaluate=False)["step"]
        ours.append(step_seconds(run(width, TOKENS[0]), budget=1.0))
        kernels[str(width)] = theirs / statistics.mean(ours)
    make = lambda width, tokens: run(width, tokens, fingerprint=corpus.fingerprint)
    schedules = [make(24, tokens).schedule for tokens in TOKENS]
    alone = sum(schedule.tokens for schedule in schedules)
    decays = sum(s.tokens - s.tokens_before(s.decay_start) for s in schedules[:-1])
    packed, one = study(folder / "packed", corpus), study(folder / "one", corpus)
    few = [make(width, tokens) for width in WIDTHS for tokens in (50_000, 100_000)]
    seconds = [train(packed, few, 2, 1), train(one, few, 1, 2)]
    own = study(folder / "own", corpus)
    train(own, [make(width, 50_000) for width in (24, 64)], 2, 1)
    branches = {
        str(width): [where.record(make(width, 50_000).id).loss for where in (packed, own)] for width in (24, 64)
    }
    return {
        "kernels_peer_step_over_ours_two_threads": kernels,
        "branches_flops_of_full_runs_over_trunks": alone / (schedules[-1].tokens + decays),
        "branches_loss_in_a_trunk_and_alone": branches,
        "packing_two_processes_then_one_of_two_threads_seconds": seconds,
        "packing_gain": seconds[1] / seconds[0],
    }


def batched(folder: Path, corpus: corpora.Corpus, python: str) -> dict:
    """Models of one shape as one: tokens a second over those of as many one after another, and a whole sweep."""
    torch.set_num_threads(1)
    gains: dict[str, dict] = {}
    for compiled, counts in ((False, (2, 3, 4, 8)), (True, (3,))):
        for width, sequences in itertools.product((24, 32, 64), (1, 2, 4)):
            recipe = Recipe(batch_tokens=sequences * CONTEXT, batch_exponent=0.0, compile=compiled)
            one = run(width, TOKENS[0], recipe)
            rounds = []
            for _ in range(3):
                alone = step_seconds(one, budget=0.25)
                rounds.append([count * alone / step_seconds(one, count, 0.25) for count in counts])
            result = dict(zip(map(str, counts), np.median(rounds, 0).round(2).tolist(), strict=True))
            way = "compiled kernels" if compiled else "eager"
            of_way = gains.setdefault(f"{way}, of as many one after another", {})
            of_way[f"{width} wide, {sequences} sequences"] = result
    data = TextConfig(source="stdlib", fingerprint=corpus.fingerprint)
    chosen = sweep_runs(Recipe(compile=True), shape(32, CONTEXT), data, (50_000, 100_000), 0)
    together, apart = study(folder / "together", corpus), study(folder / "apart", corpus)
    seconds = [train(together, chosen, 2, 1, batched=True), train(apart, chosen, 2, 1)]
    losses = [[where.record(config.id).loss for config in chosen] for where in (together, apart)]
    return {
        "gain_over_the_speed": gains,
        "sweep_batched_then_not_seconds": seconds,
        "sweep_gain": seconds[1] / seconds[0],
        "sweep_largest_difference_of_loss": float(np.max(np.abs(np.subtract(*losses)))),
    }


STAGES = {"total": total, "processor": processor, "parts": parts, "batched": batched}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", default=list(STAGES), help=", ".join(STAGES))
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has transformers and accelerate")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    corpus = corpora.read_corpus("stdlib")
    for stage in arguments.stages:
        with tempfile.TemporaryDirectory() as folder:
            result = STAGES[stage](Path(folder), corpus, arguments.peer_python)
        print(stage, json.dumps(result, indent=1), flush=True)
        if arguments.output:
            before = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
            write_json(arguments.output, before | {stage: result, "torch": torch.__version__})


if __name__ == "__main__":
    main()
