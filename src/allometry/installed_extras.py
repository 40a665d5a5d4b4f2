"""The extras of the installation: which are complete here, and what each would add."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# extra → (what it adds, the distributions that make it up)
ADDED = {
    "nn": ("unit-scaled layers, optimisers, FP8 and the audit", ("torch",)),
    "train": ("ladders: training, generation, BPE tokenizers", ("torch", "safetensors", "tokenizers")),
    "datasets": ("data sets of Hugging Face as a corpus", ("datasets",)),
    "tensorboard": ("--tracker tensorboard", ("tensorboard", "tensorboardX")),
    "wandb": ("--tracker wandb", ("wandb",)),
    "mlflow": ("--tracker mlflow", ("mlflow",)),
    "ray": ("--engine ray", ("ray",)),
    "slurm": ("--engine slurm", ("submitit",)),
    "gguf": ("export to llama.cpp, and reading GGUF files", ("gguf",)),
    "models": ("pretrained models: finetune, scaling of their layers", ("transformers", "accelerate")),
    "evaluation": ("evaluate --tasks, by lm-eval", ("transformers", "accelerate", "lm-eval")),
    "callbacks": ("recorders for Trainer, Lightning and Keras", ("transformers", "accelerate", "keras", "lightning")),
    "tasks": (
        "the scores of translation, summaries and digits",
        ("torch", "safetensors", "tokenizers", "scikit-learn", "sacrebleu", "rouge-score"),
    ),
}
# What laws, plans and reports need; always there.
BASE = ("numpy", "scipy", "pyarrow", "matplotlib", "pydantic", "rich", "typer")
MODULES = {"lm-eval": "lm_eval", "scikit-learn": "sklearn", "rouge-score": "rouge_score"}


@dataclass(frozen=True)
class InstalledExtra:
    """One extra: ``has`` holds the versions of its distributions that are here, ``lacks`` those that are not."""

    name: str
    adds: str
    has: dict[str, str]
    lacks: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything that the extra brings is here."""
        return not self.lacks

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        return asdict(self) | {"lacks": list(self.lacks), "complete": self.complete}


def installed_extras(find: Callable[[str], str | None] | None = None) -> list[InstalledExtra]:
    """Every extra, with what of it is here; ``find`` gives the version of a distribution, or None."""
    find = find or version_of
    versions = {name: find(name) for _, names in ADDED.values() for name in names}
    return [
        InstalledExtra(
            extra,
            adds,
            {name: value for name in names if (value := versions[name]) is not None},
            tuple(name for name in names if versions[name] is None),
        )
        for extra, (adds, names) in ADDED.items()
    ]


def base_versions() -> dict[str, str]:
    """Python and the libraries that every installation has → version."""
    versions = {name: version_of(name) or "missing" for name in BASE}
    return {"python": platform.python_version()} | versions


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution; "?" where only its module is there; None where nothing is."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        module = MODULES.get(distribution, distribution)
        return "?" if importlib.util.find_spec(module) is not None else None
