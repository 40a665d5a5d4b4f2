"""The extras of the installation: which one brings a library that laws and planning do without."""

from __future__ import annotations

import importlib.util

from .errors import UserError

# library: the extra that brings it
EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "tokenizers": "train",
    "huggingface_hub": "train",  # comes with tokenizers
    "datasets": "datasets",
    "tensorboardX": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "ray": "ray",
    "submitit": "slurm",
    "gguf": "gguf",
    "transformers": "models",
    "lm_eval": "evaluation",
    "keras": "callbacks",
    "lightning": "callbacks",
    "sklearn": "tasks",
    "sacrebleu": "tasks",
    "rouge_score": "tasks",
}
# trainer: the libraries that it needs, beyond what a ladder needs anyway
TRAINER_LIBRARIES = {"built_in": ("torch", "safetensors")}


def how_to_install(library: str) -> str:
    """One line for a user who lacks one of the libraries in :data:`EXTRAS`."""
    return f"{library} is not installed: pip install 'allometry[{EXTRAS[library]}]'"


def require(*libraries: str) -> None:
    """Check that libraries are installed, without importing them.

    Raises:
        UserError: one is not; the message names the extra that brings it.
    """
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise UserError(how_to_install(library))


def require_trainer(name: str) -> None:
    """Check that the libraries of a trainer are installed, without importing them.

    Raises:
        UserError: one is not; the message names the extra that brings it.
    """
    require(*TRAINER_LIBRARIES.get(name, ()))
