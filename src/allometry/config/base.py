"""What every configuration is: frozen, strict, read from TOML or JSON."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import UserError


class Config(BaseModel):
    """A frozen record; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    @classmethod
    def parse(cls, values: dict[str, Any], where: str = "configuration") -> Self:
        """Build from a dictionary.

        Raises:
            UserError: a key is unknown, missing or has a bad value; names the first.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            # A misspelt key is also a missing one; the misspelling is the better news.
            first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
            key = ".".join(str(part) for part in first["loc"]) or "value"
            if first["type"] == "extra_forbidden":
                owner = cls
                for part in first["loc"][:-1]:
                    owner = owner.model_fields[part].annotation
                raise UserError(f"{where}: unknown key {_nearest(key, owner.model_fields)}") from None
            raise UserError(f"{where}: {key}: {first['msg']}") from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML or JSON file.

        Raises:
            UserError: there is no such file, or it does not parse.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            values = json.loads(text) if Path(path).suffix == ".json" else tomllib.loads(text)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from None
        except ValueError as error:
            raise UserError(f"{path}: not readable as {Path(path).suffix or 'TOML'}: {error}") from None
        return cls.parse(values, str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and TOML have them."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        return tomli_w.dumps(self.to_dict())


def _nearest(key: str, known: Iterable[str]) -> str:
    """An unknown key, what was meant by it as far as one can tell, and what there is."""
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
    return f"{key!r}" + (f" (did you mean {near[0]!r}?)" if near else "") + f"; known: {', '.join(known)}"
