"""The parametrisations as tables: multiplier, initial deviation and learning rate, by role and depth.

An "abc" parametrisation (Yang et al., 2022, arXiv 2203.03466) gives every weight W = A·w three numbers: the
multiplier A of the forward pass, the standard deviation B of w at the start and the factor C on Adam's learning rate.
A :class:`Scheme` holds them as three columns by kind of parameter, and the weights of the two sides of a residual
addition. The code that applies a scheme refers to none by name.

Two rules of the papers have no column, since their cause does not exist here: ε that shrinks with width and depth
(CompleteP), because unit-scaled gradients do not shrink; weight decay times the width (CompleteP, μP), because our
decay is already independent of the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

KINDS = ("input", "hidden", "output", "bias", "gain")


@dataclass(frozen=True)
class Role:
    """The function of a parameter in the model.

    ``kind`` is one of :data:`KINDS`; ``branches`` counts the residual branches of the stream that it works on (twice
    the layers of a transformer), 1 outside all of them.
    """

    kind: str
    fan_in: int
    fan_out: int
    branches: int = 1


@dataclass(frozen=True)
class Base:
    """The constants of a scheme: the model on which its hyperparameters were found, and the weights of its branches.

    ``width`` and ``branches`` are those of the tuned model, for schemes that are relative to one. ``alpha_res`` and
    ``alpha_ratio`` weigh u-μP's branches against the embedding and attention against the MLP; ``tau`` is the share of
    the variance that a branch of μS adds.
    """

    width: int = 64
    branches: int = 4
    alpha_res: float = 1.0
    alpha_ratio: float = 1.0
    tau: float = 0.2

    def __post_init__(self):
        for name in ("width", "branches", "alpha_res", "alpha_ratio"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)}; it must be positive")
        if not 0 <= self.tau <= 1:
            raise ValueError(f"tau: {self.tau} is not a share; give 0 ≤ τ ≤ 1")


Column = Mapping[str, Callable[[Role, Base], float]]


@dataclass(frozen=True)
class Scheme:
    """One parametrisation: ``multiplier``, ``init`` and ``rate`` by kind of parameter, and the residual additions.

    ``residual(i, branches, base)`` is (keep, share) of branch i: ``keep·skip + share·branch``. Biases start at 0 and
    gains at 1 in all of them.
    """

    name: str
    source: str
    multiplier: Column
    init: Column
    rate: Column
    residual: Callable[[int, int, Base], tuple[float, float]]


def residual_taus(branches: int, alpha_res: float = 1.0, alpha_ratio: float = 1.0) -> list[float]:
    """The weight τ of each residual branch, attention first, so that every branch adds its due share.

    Branch i enters as ``τ/√(1+τ²)·branch + 1/√(1+τ²)·skip``. ``branches`` is twice the number of layers;
    ``alpha_res`` weighs all branches against the embedding, ``alpha_ratio`` attention against the MLP.
    Source: u-μP (arXiv 2407.17465), eqs. 10–14 and appendix G.2.
    """
    alpha_mlp = alpha_res * math.sqrt(2 / (1 + alpha_ratio**2))
    alpha_attention = alpha_ratio * alpha_mlp
    layers = branches / 2
    taus = []
    for i in range(branches):
        own = alpha_attention if i % 2 == 0 else alpha_mlp
        before = ((i + 1) // 2) * alpha_attention**2 + (i // 2) * alpha_mlp**2
        taus.append(math.sqrt(own**2 / (layers + before)))
    return taus


def _umup_residual(i: int, branches: int, base: Base) -> tuple[float, float]:
    tau = residual_taus(branches, base.alpha_res, base.alpha_ratio)[i]
    return 1 / math.sqrt(1 + tau**2), tau / math.sqrt(1 + tau**2)


def one(role: Role, base: Base) -> float:
    return 1.0


def inverse_root_fan_in(role: Role, base: Base) -> float:
    return role.fan_in**-0.5


_ONES: Column = dict.fromkeys(KINDS, one)

SP = Scheme(
    "sp",
    "standard parametrisation: PyTorch's habit, weights of std 1/√fan_in, one learning rate",
    multiplier=_ONES,
    init=_ONES | {"hidden": inverse_root_fan_in, "output": inverse_root_fan_in},
    rate=_ONES,
    residual=lambda i, branches, base: (1.0, 1.0),
)
MUP = Scheme(
    "mup",
    "μP (Yang et al., 2022, arXiv 2203.03466, table 8)",
    multiplier=_ONES | {"output": lambda role, base: base.width / role.fan_in},
    init=_ONES | {"hidden": inverse_root_fan_in, "output": lambda role, base: base.width**-0.5},
    rate=_ONES | {"hidden": lambda role, base: base.width / role.fan_in},
    residual=lambda i, branches, base: (1.0, 1.0),
)
COMPLETEP = Scheme(
    "completep",
    "CompleteP, α = 1 (Dey et al., 2025, arXiv 2505.01618, table 1)",
    multiplier=MUP.multiplier,
    init=MUP.init,
    rate=MUP.rate,
    residual=lambda i, branches, base: (1.0, base.branches / branches),
)
UMUP = Scheme(
    "umup",
    "u-μP (Blake et al., 2024, arXiv 2407.17465, table 2)",
    multiplier=_ONES | {"hidden": inverse_root_fan_in, "output": lambda role, base: 1 / role.fan_in},
    init=_ONES,
    rate=_ONES
    | {
        "input": lambda role, base: role.fan_out**-0.5,
        "hidden": lambda role, base: (role.fan_in * role.branches) ** -0.5,
    },
    residual=_umup_residual,
)
MUS = Scheme(
    "mus",
    "μS, μnit scaling (arXiv 2502.05967): meant for blocks with norm='post'",
    multiplier=UMUP.multiplier,
    init=_ONES,
    rate=_ONES | {"hidden": lambda role, base: math.sqrt(base.width / role.fan_in)},
    residual=lambda i, branches, base: (math.sqrt(1 - base.tau), math.sqrt(base.tau)),
)

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (SP, MUP, UMUP, COMPLETEP, MUS)}


def scheme(name: str) -> Scheme:
    """The scheme called ``name``.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in SCHEMES:
        raise ValueError(f"scheme: {name!r} is unknown; there are {', '.join(map(repr, SCHEMES))}")
    return SCHEMES[name]
