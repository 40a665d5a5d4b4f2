"""A training process: jobs in on standard input, events out on standard output, one JSON value a line.

Started by :mod:`allometry.runs.engines.local`. It leaves when its input ends, when it is told to stop (SIGTERM), and
when the process that started it is gone, each time with its training saved. Ctrl-C goes to the starter alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...config.run import RunConfig
from ...data.corpus import Corpus, load_corpus
from ...errors import UserError
from ...runs.claims import Fenced, Taken
from ...runs.study import Study
from .batched import train_batched
from .step_seconds import step_seconds
from .train_trunk import Hooks, Interrupted, train_trunk


def main() -> None:
    """Serve jobs until the input ends."""
    # Whatever prints to standard output must not break the protocol.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    parent = os.getppid()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

    def send(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")

    def stop() -> bool:
        return bool(stopped) or os.getppid() != parent

    corpora: dict[str, Corpus] = {}
    for line in sys.stdin:
        try:
            _serve(json.loads(line), corpora, send, stop)
        except (Interrupted, BrokenPipeError):
            break
        except UserError as error:
            send("failed", message=str(error))
        except OSError as error:  # a full disk, say
            where = error.filename or "study"
            send("failed", message=f"{where}: {error.strerror or error}; the same command again goes on from here")
        if stop():
            break


def _serve(job: dict[str, Any], corpora: dict[str, Corpus], send, stop) -> None:
    if "measure" in job:
        send("done", result=[step_seconds(RunConfig.parse(value), job["models"]) for value in job["measure"]])
        return
    study = Study(Path(job["study"]))
    corpus = corpora.setdefault(job["study"], None) or load_corpus(study.corpus_path)
    corpora[job["study"]] = corpus
    configs = [RunConfig.parse(value) for value in job["configs"]]
    _check(configs, corpus, study)
    hooks = Hooks(
        report=lambda progress: send("progress", **asdict(progress)),
        recorded=lambda record: send("recorded", id=record.id),
        say=lambda run, text: send("note", id=run, text=text),
        stop=stop,
    )
    try:
        together = len({config.trunk for config in configs}) > 1
        (train_batched if together else train_trunk)(
            configs,
            corpus,
            study,
            kind=job["kind"],
            hooks=hooks,
            follows=job["follows"],
            retry_of=job["retry_of"],
        )
    except Taken:
        send("done", result="taken")
    except Fenced:
        text = "this process stood still, and another has taken the work over; what was not saved is left to it"
        send("note", id=configs[0].id, text=text)
        send("done", result="taken")
    else:
        send("done", result=None)


def _check(configs: list[RunConfig], corpus: Corpus, study: Study) -> None:
    """Refuse to train on another text than the configurations were made for."""
    for config in configs:
        if config.task.fingerprint != corpus.fingerprint:
            raise UserError(f"{study.path}: run {config.id} was planned for other text than this study holds")
        corpus.check(config.model.context, config.model.vocab_size)


if __name__ == "__main__":
    main()
