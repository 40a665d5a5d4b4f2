"""What a shell offers for the value of an option, where the values are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def law_names(incomplete: str) -> list[str]:
    """The laws that ``fit --law`` knows."""
    from ...laws import LAWS

    return _beginning(incomplete, LAWS)


def device_names(incomplete: str) -> list[str]:
    """The devices of which a plan knows speed and memory."""
    from ...planning import DEVICES

    return _beginning(incomplete, DEVICES)


def rule_names(incomplete: str) -> list[str]:
    """The published rules for batch and learning rate."""
    from ...planning import RULES

    return _beginning(incomplete, RULES)


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Completion of an option with few values."""

    def offer(incomplete: str) -> list[str]:
        return _beginning(incomplete, names)

    return offer


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
