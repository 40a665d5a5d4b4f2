"""Train runs on a corpus in memory, in this process, by the functions of the built-in trainer."""

from collections.abc import Callable, Sequence
from functools import partial

from allometry.config.run import RunConfig
from allometry.data.corpus import Corpus
from allometry.lm import device as devices
from allometry.lm.training.gradients import Pieces
from allometry.lm.training.member import Member
from allometry.lm.training.train_batched import train_batched
from allometry.lm.training.train_trunk import train_trunk
from allometry.runs.hooks import SILENT, Hooks
from allometry.runs.job import Job
from allometry.runs.study import Study
from allometry.tasks.contract import OpenTask
from allometry.tasks.text import TextTask


def texts(corpus: Corpus) -> OpenTask:
    return partial(TextTask.of, corpus)


def train(
    configs: Sequence[RunConfig],
    corpus: Corpus,
    study: Study,
    kind: str = "ladder",
    hooks: Hooks = SILENT,
    retry_of: dict[str, str] | None = None,
    how: Callable[..., None] = train_trunk,
    **options,
) -> None:
    how(Job(tuple(configs), kind, retry_of=retry_of or {}), texts(corpus), study, hooks, **options)


def batched(configs: Sequence[RunConfig], corpus: Corpus, study: Study, **options) -> None:
    train(configs, corpus, study, "sweep", how=train_batched, **options)


def fresh(config: RunConfig, corpus: Corpus) -> tuple[Member, Pieces]:
    """A model at the beginning of its training, and its gradients as they fit into memory."""
    member = Member.fresh(config, texts(corpus)(config), devices.mine())
    return member, Pieces(member)
