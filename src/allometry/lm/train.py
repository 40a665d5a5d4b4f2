"""Train the runs of one trunk: those that share everything but their length.

The learning rate of warmup–stable–decay does not depend on a run's length until it falls, and the order of the text
is a function of seed and step. So one long trunk serves every length: at each, the state is set aside, the fall is
run to its end, the result recorded, and the trunk goes on from where it stood. Each result is, to the bit, what a
run of that length alone would have reached.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..config import RunConfig
from ..errors import UserError
from ..runs.corpus import Corpus
from ..runs.record import RunRecord, environment, now
from ..runs.store import Study
from . import checkpoint
from .data import held_out_windows
from .health import SEQUENCES, scale_warning
from .model import LanguageModel
from .trunk import Diverged, Trunk, evaluate

HELD_OUT_WINDOWS = 512
AUDITED_STEPS = 300  # an audit of scales costs as much as twenty steps of a small model: none for shorter trunks


class Interrupted(Exception):
    """Training was asked to stop; everything so far is saved."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands, sent about twice a second."""

    id: str
    tokens: int
    loss: float
    tokens_per_second: float


def train_trunk(
    configs: Sequence[RunConfig],
    corpus: Corpus,
    study: Study,
    *,
    kind: str,
    report: Callable[[Progress], None] = lambda progress: None,
    recorded: Callable[[RunRecord], None] = lambda record: None,
    say: Callable[[str, str], None] = lambda run, text: None,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_seconds: float = 10.0,
) -> None:
    """Train every run in ``configs`` that has no record yet, and record each as soon as it ends.

    Goes on from the trunk's checkpoint where there is one. A run whose loss stops being finite, or ends no better
    than guessing, is recorded as diverged; so are the longer ones when it was their common trunk that diverged.
    ``say`` hears a run's id and a note on it.

    Raises:
        Interrupted: ``stop()`` became true; the trunk is saved.
        UserError: the runs do not share a trunk, or the text is too short.
    """
    if len({config.trunk for config in configs}) != 1:
        raise UserError("runs of one trunk may differ in their tokens only")
    todo = sorted((config for config in configs if study.record(config.id) is None), key=lambda c: c.train.tokens)
    if not todo:
        return
    path = study.trunk_path(todo[0].trunk)
    trunk = Trunk(todo[-1], corpus)
    if path.exists():
        tensors, meta = checkpoint.read(path)
        # A trunk that a longer run left may be past the point where this one branches off; then it is of no use here.
        if meta["step"] <= todo[0].schedule.decay_start:
            trunk.restore(tensors, meta)
    audited = trunk.step == 0 and kind != "sweep" and todo[-1].schedule.steps >= AUDITED_STEPS
    if audited and (warning := scale_warning(trunk.model, trunk.windows.batch(0, SEQUENCES))):
        say(todo[-1].id, warning)
    evaluation = held_out_windows(corpus.held_out, todo[0].model.context, HELD_OUT_WINDOWS)
    watch = _Watch(trunk, path, report, stop, checkpoint_seconds)
    for position, config in enumerate(todo):
        begin_tokens, begin_seconds = config.schedule.tokens_before(trunk.step), trunk.seconds
        watch.run = config
        try:
            watch.on_trunk = True
            trunk.advance(config, config.schedule.decay_start, watch)
            watch.save()
            tensors, meta = trunk.capture()
            watch.on_trunk = False
            trunk.advance(config, config.schedule.steps, watch)
            loss = evaluate(trunk.model, evaluation)
        except Diverged:
            loss = (math.nan, math.nan)
        spent = config.schedule.tokens_before(trunk.step) - begin_tokens
        record = _record(config, kind, loss, trunk, spent, trunk.seconds - begin_seconds)
        if record.status == "finished":
            save_weights(study.weights_path(config.id), trunk.model, config)
        study.save(record, trunk.curve)
        recorded(record)
        if watch.on_trunk:  # it was the trunk that diverged: the longer runs are lost with it
            for longer in todo[position + 1 :]:
                lost = _record(longer, kind, loss, trunk, 0, 0.0)
                study.save(lost, trunk.curve)
                recorded(lost)
            break
        trunk.restore(tensors, meta | {"seconds": trunk.seconds})
    path.unlink(missing_ok=True)


class _Watch:
    """What happens between steps: progress is told, the trunk saved, a wish to stop obeyed."""

    def __init__(self, trunk: Trunk, path, report, stop, checkpoint_seconds: float):
        self.trunk, self.path, self.report, self.stop = trunk, path, report, stop
        self.checkpoint_seconds = checkpoint_seconds
        self.run = trunk.config
        self.on_trunk = True
        self.told = 0.0
        self.saved = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        trunk = self.trunk
        if self.stop():
            # A fall under way is begun again from its branch point, which is saved already.
            if self.on_trunk:
                self.save()
            raise Interrupted
        if self.on_trunk and now - self.saved > self.checkpoint_seconds:
            self.save()
        if now - self.told > 0.4:
            self.told = now
            tokens = self.run.schedule.tokens_before(trunk.step)
            self.report(Progress(self.run.id, tokens, trunk.smooth, tokens / trunk.seconds))

    def save(self) -> None:
        checkpoint.write(self.path, *self.trunk.capture())
        self.saved = time.monotonic()


def save_weights(path, model: LanguageModel, config: RunConfig) -> None:
    """The weights of a run, its configuration beside them."""
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    checkpoint.write(path, tensors, {"config": config.to_dict()})


def _record(
    config: RunConfig, kind: str, loss: tuple[float, float], trunk: Trunk, spent: int, seconds: float
) -> RunRecord:
    """The record of a run that cost ``spent`` tokens and ``seconds`` beyond the shorter ones of its trunk."""
    value, error = loss
    guessing = math.log(config.model.vocab_size)
    finished = math.isfinite(value) and value < guessing
    return RunRecord(
        config=config,
        kind=kind,
        status="finished" if finished else "diverged",
        loss=value if math.isfinite(value) else None,
        loss_se=error if math.isfinite(error) else None,
        train_loss=trunk.smooth if math.isfinite(trunk.smooth) else None,
        seconds=round(seconds, 3),
        flops_spent=spent * config.model.flops_per_token,
        tokens_per_second=round(spent / seconds, 1) if seconds else 0.0,
        finished_at=now(),
        environment=environment(torch.get_num_threads()),
        note="" if finished else f"loss {value:.4g} is no better than guessing ({guessing:.2f})",
    )
