"""The laws by their names."""

from __future__ import annotations

from ...errors import UserError
from ..base import Law
from .farseer import Farseer
from .formula import DataConstrained
from .joined_powers import Kaplan, KaplanFloor, Skaling
from .sums_of_powers import Chinchilla, ChinchillaTied, Power, PowerFloor, ThreeTerm

LAWS: dict[str, Law] = {
    each.name: each
    for each in (
        Power(),
        PowerFloor(),
        Kaplan(),
        KaplanFloor(),
        Chinchilla(),
        ChinchillaTied(),
        Skaling(),
        Farseer(),
        DataConstrained(),
        ThreeTerm(),
    )
}


def law(name: str | Law) -> Law:
    """The law of that name; a ``Law`` is returned as it is.

    Raises:
        UserError: no such law; the known ones are named.
    """
    if isinstance(name, Law):
        return name
    if name not in LAWS:
        raise UserError(f"no law {name!r}; known are {', '.join(LAWS)}")
    return LAWS[name]
