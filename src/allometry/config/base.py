"""What every configuration is: frozen, strict, read from TOML or JSON; and configurations of several kinds."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

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
            first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
            key = ".".join(str(part) for part in first["loc"]) or "value"
            if first["type"] == "extra_forbidden":
                owner = cls._at(values, first["loc"][:-1])
                raise UserError(f"{where}: unknown key {_nearest(key, owner.model_fields)}") from None
            raise UserError(f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}") from None

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

    def identity(self) -> dict[str, Any]:
        """What of it decides the outcome of a run, as JSON.

        Fields at their default are left out: a field that is added later, whose default is what was done before,
        changes no identity. So a default never changes.
        """
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def _kind(cls, values: Any) -> type[Config]:
        """The class that ``values`` are parsed as."""
        return cls

    @classmethod
    def _at(cls, values: Any, path: tuple[str | int, ...]) -> type[Config]:
        """The class of the configuration at ``path`` within ``values``."""
        owner = cls._kind(values)
        for part in path:
            values = values[part]
            owner = owner.model_fields[str(part)].annotation._kind(values)
        return owner


class OneOf(Config):
    """A configuration of several kinds: parsed as the base class, it becomes the kind that one key names.

    The base class names the key, :attr:`key`, and the kind that is meant without it, :attr:`default_kind`. A kind is
    a subclass whose class keyword ``kind`` is its name.
    """

    key: ClassVar[str]
    default_kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[OneOf]]]

    def __init_subclass__(cls, kind: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if kind is None:
            cls.kinds = {}
        else:
            cls.kinds[kind] = cls

    @classmethod
    def _kind(cls, values: Any) -> type[Config]:
        if cls in cls.kinds.values() or not isinstance(values, dict):
            return cls
        return cls.kinds.get(values.get(cls.key, cls.default_kind), cls)

    @model_validator(mode="wrap")
    @classmethod
    def _as_its_kind(cls, values: Any, handler: Any) -> Any:
        if isinstance(values, cls):
            return values
        kind = cls._kind(values)
        if kind is not cls:
            return kind.model_validate(values)
        if cls not in cls.kinds.values() and isinstance(values, dict):
            name = values.get(cls.key)
            raise ValueError(f"unknown {cls.key} {_nearest(str(name), cls.kinds)}")
        return handler(values)

    def identity(self) -> dict[str, Any]:
        return {self.key: getattr(self, self.key)} | super().identity()


def _nearest(key: str, known: Iterable[str]) -> str:
    """An unknown key, what was meant by it as far as one can tell, and what there is."""
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
    return f"{key!r}" + (f" (did you mean {near[0]!r}?)" if near else "") + f"; known: {', '.join(known)}"
