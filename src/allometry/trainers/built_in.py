"""The built-in trainer: one trunk, or several that step alike as one batched model; bit-equal when interrupted."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from ..config.run import RunConfig
from ..data.corpus import Corpus, load_corpus
from ..errors import UserError
from ..lm.training.batched import train_batched
from ..lm.training.step_seconds import step_seconds
from ..lm.training.train_trunk import train_trunk
from ..runs.hooks import SILENT, Hooks
from ..runs.job import Job
from ..runs.study import Study


class BuiltIn:
    """Trains by as many threads as OMP_NUM_THREADS says. See :class:`.contract.Trainer`."""

    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self._corpora: dict[str, Corpus] = {}

    def train(self, job: Job, study: Study, hooks: Hooks = SILENT, follows: int | None = None) -> None:
        corpus = self._corpora.get(str(study.path)) or load_corpus(study.corpus_path)
        self._corpora[str(study.path)] = corpus
        _check(job.configs, corpus, study)
        together = len({config.trunk for config in job.configs}) > 1
        (train_batched if together else train_trunk)(
            job.configs, corpus, study, kind=job.kind, hooks=hooks, follows=follows, retry_of=job.retry_of
        )

    def measure(self, configs: Sequence[RunConfig], models: int = 1) -> list[float]:
        return [step_seconds(config, models) for config in configs]


def _check(configs: Sequence[RunConfig], corpus: Corpus, study: Study) -> None:
    """Refuse to train on another text than the configurations were made for."""
    for config in configs:
        if config.task.fingerprint != corpus.fingerprint:
            raise UserError(f"{study.path}: run {config.id} was planned for other text than this study holds")
        corpus.check(config.model.context, config.model.vocab_size)
