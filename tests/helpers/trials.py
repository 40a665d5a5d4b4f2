"""A small training that can be killed, stopped or starved again and again: forked from a process that has torch.

Importing torch takes longer than the training itself, so trials are forks of the process that imported this. A trial
ends in `os._exit`, or as it was meant to.
"""

import hashlib
import os
import pathlib
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from allometry.config.task import TextConfig
from allometry.data.corpus import Corpus
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape
from allometry.lm.training import between_steps
from allometry.runs.claims import Fenced
from allometry.runs.hooks import Hooks
from allometry.runs.study import Study
from helpers.training import train

LONG = os.environ.get("ALLOMETRY_FAULTS") == "long"  # `make faults`
RECIPE: dict = {}  # beyond the rate and the batch
LENGTHS = (1_600, 2_400)  # 50 steps, and 25 more
SAVES = 0.02  # seconds between saves


def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    odds = [0.3, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02]
    text = rng.choice(np.frombuffer(b"abcdefgh \n", np.uint8), 60_000, p=odds)
    return Corpus(text[:50_000], text[50_000:], "made", "made", 1, 0, 0)


TEXT = corpus()


def configs(*lengths: int, **recipe):
    data = TextConfig(source="made", fingerprint="made")
    base = Recipe(**{"lr": 0.3, "batch_tokens": 128} | RECIPE | recipe)
    return [base.run(shape(16, context=32), data, tokens, 0) for tokens in lengths or LENGTHS]


def study(path: Path) -> Study:
    return Study.create(path, {"made": True})


def go_on(where: Study, *lengths: int, follows: int | None = None, **hooks) -> None:
    """Train, or go on with it, in this process."""
    torch.set_num_threads(1)
    train(configs(*lengths), TEXT, where, hooks=Hooks(**hooks), save_seconds=SAVES, follows=follows)


def fork(work: Callable[[], object]) -> int:
    """The process id of a child that does ``work``; it exits with 0, 3 for :class:`Fenced`, 1 for anything else."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        between_steps.SAVING_SHARE = 1.0  # as many saves as there can be
        work()
        status = 0
    except Fenced:
        status = 3
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def wait(child: int) -> int:
    """Its exit status; minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def calm(where: Study, *lengths: int) -> None:
    """An undisturbed training."""
    assert wait(fork(lambda: go_on(where, *lengths))) == 0


def weights(where: Study) -> dict[str, str]:
    """The SHA-256 of the final weights of every run."""
    paths = where.path.glob("runs/*/model.safetensors")
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def die_at(place: int) -> None:
    """Kill this process at the ``place``-th step of writing anything: half of a file, a sync, a rename.

    The steps of a log of attempts are among them, as everything that is written.
    """
    done = 0

    def step() -> bool:
        nonlocal done
        done += 1
        return done >= place

    def kill(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying(function: Callable) -> Callable:
        def run(*arguments, **options):
            if step():
                kill()
            return function(*arguments, **options)

        return run

    whole = pathlib.Path.write_bytes

    def half(path: Path, content: bytes) -> int:
        if step():
            whole(path, content[: len(content) // 2])
            kill()
        return whole(path, content)

    pathlib.Path.write_bytes = half
    for name in ("fsync", "rename", "replace"):
        setattr(os, name, dying(getattr(os, name)))


def within_a_save(where: Study) -> bool:
    """Whether what a kill left shows that it fell into the writing of a file or folder."""
    left = [*where.path.rglob(".partial-*"), *where.path.rglob(".deleted-*")]
    left += [path for path in where.path.rglob(".*.json*.*") if path.is_file()]
    return bool([*left, *where.path.rglob(".model.safetensors.*")])


def killed_again_and_again(
    folder: Path, expected: dict[str, str], rng: random.Random, inside: bool, seconds: float
) -> tuple[bool, int]:
    """One trial: killed up to three times within ``seconds``, then left in peace.

    Whether it ended as expected, and how many kills fell into a save; with ``inside`` all of them do.
    """
    where, saves = study(folder), 0
    for _ in range(rng.randint(1, 3)):
        if inside:
            place = rng.randint(1, 100)
            child = fork(lambda place=place: (die_at(place), go_on(where)))
        else:
            child = fork(lambda: go_on(where))
            time.sleep(rng.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
        if wait(child) == 0:
            break
        saves += inside or within_a_save(where)
    status = wait(fork(lambda: go_on(where)))
    return status == 0 and weights(where) == expected, saves
