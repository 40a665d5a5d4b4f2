"""The base classes of configurations: frozen, strict, read from TOML or JSON; one of them has several kinds."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ..errors import UserError
from ..files import parse_json
from ..plugins import declaration
from .plain_words import number_from_text, plain_words


class Config(BaseModel):
    """A frozen record; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    @model_validator(mode="before")
    @classmethod
    def _numbers_as_written(cls, values: Any) -> Any:
        """Sizes and tokens may be written as texts, "60k" or "1.5B"."""
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {
            name: number_from_text(name, value, fields[name].annotation) if name in fields else value
            for name, value in values.items()
        }

    @classmethod
    def parse(cls, values: dict[str, Any], where: str = "configuration") -> Self:
        """Build from a dictionary.

        Raises:
            UserError: a key is unknown or missing, or has a bad value; names the first such key.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            # If a key is misspelt, the right one is missing too; the misspelling is the more helpful message.
            first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
            key = _written(first["loc"])
            if first["type"] == "extra_forbidden":
                owner = cls._at(values, first["loc"][:-1])
                raise UserError(f"{where}: unknown key {_nearest(key, owner.model_fields)}") from None
            place = f"{where}: {key}" if key else where
            raise UserError(f"{place}: {plain_words(first)}") from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML or JSON file.

        Raises:
            UserError: the file does not exist, or does not parse.
        """
        return cls.parse(read_values(path), str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and TOML can hold them."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        return tomli_w.dumps(self.to_dict())

    def identity(self) -> dict[str, Any]:
        """The part that determines the outcome of a run, as JSON.

        Fields that have their default value are left out. So a new field, whose default means what was done before,
        changes no identity; and for the same reason a default must never change.
        """
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def _kind(cls, values: Any) -> type[Config]:
        """The class as which ``values`` are parsed."""
        return cls

    @classmethod
    def _at(cls, values: Any, path: tuple[str | int, ...]) -> type[Config]:
        """The class of the configuration at ``path`` within ``values``."""
        owner = cls._kind(values)
        for part in path:
            values, field = values[part], owner.model_fields[str(part)].annotation
            assert isinstance(field, type)
            assert issubclass(field, Config)
            owner = field._kind(values)
        return owner


class OneOf(Config):
    """A configuration that has several kinds: one key names the kind, and parsing the base class gives that subclass.

    The base class sets :attr:`key` (the name of that key) and :attr:`default_kind` (the kind if the key is absent).
    A kind is a subclass; its class keyword ``kind`` is its name. An installed package may bring kinds: its entry point
    of the group ``allometry.`` and :attr:`plural` is imported when its name is met, and defines the kind by that.
    """

    key: ClassVar[str]
    plural: ClassVar[str]
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
        name = values.get(cls.key, cls.default_kind)
        if isinstance(name, str) and name not in cls.kinds:
            declaration(cls.plural, name)
        return cls.kinds.get(name, cls)

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


def read_values(path: Path) -> dict[str, Any]:
    """The values in a TOML or JSON file.

    Raises:
        UserError: the file does not exist, or does not parse.
    """
    kind = "JSON" if Path(path).suffix == ".json" else "TOML"
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = parse_json(text) if kind == "JSON" else tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as {kind}: {error}") from None
    if not values:
        raise UserError(f"{path}: holds no settings; docs/reference/configuration.md says what belongs in it")
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no table of settings")
    return values


def _written(place: Iterable[str | int]) -> str:
    """Where a value stands, as a reader of the file counts: "tokens, entry 2"."""
    parts = [f", entry {part + 1}" if isinstance(part, int) else f".{part}" for part in place]
    return "".join(parts).removeprefix(".")


def _nearest(key: str, known: Iterable[str]) -> str:
    """An unknown key with the known one that it resembles, if any, and all known keys."""
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
    return f"{key!r}" + (f" (did you mean {near[0]!r}?)" if near else "") + f"; known: {', '.join(known)}"
