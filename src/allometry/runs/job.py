"""A job: runs that one process trains, and how it travels to that process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ..config.run import RunConfig


@dataclass(frozen=True)
class Job:
    """Runs that one process trains, by one trainer; ``seconds`` is the estimate.

    Runs of one trunk are trained one after another, several trunks side by side as one batched model. ``kind`` is
    that of their records. ``retry_of`` gives, for runs that are trained again at a lower learning rate, the id of the
    run that diverged.
    """

    configs: tuple[RunConfig, ...]
    kind: str
    seconds: float = 0.0
    retry_of: Mapping[str, str] = field(default_factory=dict)

    @property
    def claim(self) -> str:
        """The name of the claim that a process holds while it trains this job."""
        return claim_name(self.configs)

    @property
    def trainer(self) -> str:
        """The name of the trainer of its runs."""
        return self.configs[0].trainer.name

    def to_json(self) -> dict[str, Any]:
        configs = [config.to_dict() for config in self.configs]
        return {"kind": self.kind, "configs": configs, "retry_of": dict(self.retry_of)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read a job back, from a message that may hold more than the job."""
        configs = tuple(RunConfig.parse(config) for config in value["configs"])
        return cls(configs, value["kind"], retry_of=value["retry_of"])


def claim_name(configs: Sequence[RunConfig]) -> str:
    """What is claimed to train these runs: their trunk; or, of several trunks trained together, all as one."""
    trunks = sorted({config.trunk for config in configs})
    return trunks[0] if len(trunks) == 1 else hashlib.sha256(" ".join(trunks).encode()).hexdigest()[:12]
