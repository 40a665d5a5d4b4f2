"""The laws by their names."""

from __future__ import annotations

from ..base import Law, by_name
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
    return name if isinstance(name, Law) else by_name(name, LAWS)
