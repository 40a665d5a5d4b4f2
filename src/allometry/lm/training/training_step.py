"""The training step, for one model, for several as one, and for one that several processes train."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ...config.run import RunConfig
from .gradients import Gradients
from .member import Member


def advance(
    members: Sequence[Member],
    runs: Sequence[RunConfig],
    gradients: Gradients,
    until: int,
    after_step: Callable[[], None],
) -> None:
    """Train ``members`` on to step ``until``, each along the schedule of its run, or until all have diverged.

    A member that diverges is not measured any further; the others do not feel it. ``after_step`` is called after each
    step that leaves a member to train.
    """
    pairs = list(zip(members, runs, strict=True))
    while sound := [(member, run) for member, run in pairs if not member.meter.diverged]:
        step = sound[0][0].meter.step
        if step >= until:
            return
        begin = time.perf_counter()
        losses = gradients.backward([run.schedule.batch_at(step) for run in runs])
        for member, run in pairs:
            member.optimizer.set_schedule(run.schedule.lr_factor_at(step), run.schedule.weight_decay_at(step))
            member.optimizer.step()
        gradients.clear()
        seconds = (time.perf_counter() - begin) / len(sound)
        for (member, run), loss in zip(pairs, losses, strict=True):
            if not member.meter.diverged:
                member.meter.account(loss, seconds, run.schedule, until)
        if not all(member.meter.diverged for member in members):
            after_step()
