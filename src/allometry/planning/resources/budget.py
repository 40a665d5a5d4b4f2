"""What a plan may spend and is held to: FLOPs, hours, money or a goal; the machine; the data; the use afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import UserError
from ...laws import Observations
from ...quantities import format_bytes, format_count, format_flops, format_seconds, require_positive
from .devices import device
from .shapes import Shape, mfu_flops_per_token

DEFAULT_MFU = 0.4
LEAST_MEMORY = 100e6  # no device has less: a number below is one whose unit was forgotten


@dataclass(frozen=True)
class Budget:
    """What may be spent, on which machine, and what else a plan must respect.

    How much, exactly one of:

    - ``flops``: training FLOPs (with ``inference_tokens``: of training and serving together);
    - ``hours`` on a machine, or ``cost`` at its ``price_per_hour`` (of one device; any currency);
    - a goal, whose cost the plan computes: a ``loss`` to reach; both ``num_params`` and ``tokens``; or one of these
      alone, for the budget whose best size, or whose best number of tokens, that is.

    The machine: ``device`` with ``num_devices`` (1) and ``mfu`` (0.4; the share reached of the dense BF16 peak, by
    6·N + 12·layers·width·context FLOPs a token, arXiv 2204.02311), or ``flops_per_second`` as measured, of all devices
    together (see ``throughput``). FLOPs and goals need no machine; with one, the plan has hours too, and a cost if
    there is a price.

    Constraints: ``num_params`` or ``tokens`` beside another amount fixes that one. ``tokens_available`` unique tokens
    are repeated if the plan trains on more. ``inference_tokens`` will be read or written by the model after training.
    ``memory`` (bytes of a device) is by default that of the table.

    ``flops`` is filled in for hours and cost; it stays None for a goal.

    Raises:
        UserError: no amount or more than one, a value that is missing or has no use, a number not above zero, an MFU
            above 1, an unknown device.
    """

    flops: float | None = None
    device: str | None = None
    num_devices: int | None = None
    hours: float | None = None
    mfu: float | None = None
    flops_per_second: float | None = None
    cost: float | None = None
    price_per_hour: float | None = None
    memory: float | None = None
    tokens_available: float | None = None
    inference_tokens: float | None = None
    num_params: float | None = None
    tokens: float | None = None
    loss: float | None = None

    def __post_init__(self) -> None:
        require_positive(**{name: value for name, value in vars(self).items() if name != "device"})
        if self.memory is not None and self.memory < LEAST_MEMORY:
            raise UserError(
                f"memory of {format_bytes(self.memory)} a device is too little to be meant: give bytes, such as 80GB"
            )
        self._check_machine()
        if self.device is not None:
            self._fill_device(self.device)
        self._check_amount()
        if self.rate is not None and self.cost is not None and self.price_per_hour is not None:
            flops = self.rate * 3600.0 * self.cost / self.price_per_hour / (self.num_devices or 1)
            object.__setattr__(self, "flops", flops)
        if self.rate is not None and self.hours is not None:
            object.__setattr__(self, "flops", self.rate * 3600.0 * self.hours)

    @classmethod
    def of(cls, budget: Budget | float) -> Budget:
        """A budget; a number is FLOPs."""
        return budget if isinstance(budget, Budget) else cls(flops=budget)

    @property
    def is_goal(self) -> bool:
        """Whether the budget is a loss to reach, or a size or tokens, instead of an amount."""
        return self.flops is None and self.hours is None and self.cost is None

    @property
    def is_frontier(self) -> bool:
        """Whether only a size, or only a number of tokens is given: the budget is the one whose best choice it is."""
        return self.is_goal and self.loss is None and None in (self.num_params, self.tokens)

    @property
    def rate(self) -> float | None:
        """FLOPs a second of the machine; None without a machine."""
        if self.device is not None and self.num_devices is not None and self.mfu is not None:
            return device(self.device).peak_flops * self.num_devices * self.mfu
        return self.flops_per_second

    @property
    def memory_per_device(self) -> float | None:
        """Bytes of memory of a device; None if that is not known."""
        if self.memory is None and self.device is not None:
            return device(self.device).memory
        return self.memory

    @property
    def per_node(self) -> int:
        """Devices that share a fast link."""
        return 8 if self.device is None else device(self.device).per_node

    def flops_per_token(self, model: Shape) -> float:
        """What a token of a model takes of this budget: by hours or money, as an MFU counts; else its exact FLOPs."""
        by_machine = self.hours is not None or self.cost is not None
        return self.machine_flops_per_token(model) if by_machine else float(model.flops_per_token)

    def machine_flops_per_token(self, model: Shape) -> float:
        """FLOPs of a token as the machine's speed counts them: that of a device by its MFU, or measured."""
        return float(model.flops_per_token) if self.mfu is None else mfu_flops_per_token(model)

    def seconds(self, flops: float) -> float | None:
        """The time that so many FLOPs take, counted as the machine's speed counts them; None without a machine."""
        return None if self.rate is None else flops / self.rate

    def money(self, seconds: float | None) -> float | None:
        """The price of so many seconds; None without a price."""
        if self.price_per_hour is None or seconds is None:
            return None
        return self.price_per_hour * (self.num_devices or 1) * seconds / 3600.0

    def time_and_money(self, flops: float) -> str:
        """What so many FLOPs take on the machine, in words; empty without a machine."""
        seconds = self.seconds(flops)
        money = self.money(seconds)
        words = [] if seconds is None else [format_seconds(seconds)]
        return ", ".join([*words, *([] if money is None else [f"{money:.3g} in money"])])

    def describe(self) -> str:
        """One line: ``1.54e+21 FLOPs (8 × h100, 72 h, 40 % of peak)``."""
        amount = [] if self.flops is None else [f"{format_flops(self.flops)} FLOPs"]
        if self.loss is not None:
            amount.append(f"a loss of {self.loss:g}")
        amount += [
            f"{format_count(value)} {word}"
            for value, word in ((self.num_params, "parameters"), (self.tokens, "tokens"))
            if value is not None
        ]
        details = self._machine_words()
        if self.cost is not None:
            details.append(f"{self.cost:g} at {self.price_per_hour:g} a device hour")
        if self.inference_tokens is not None:
            amount.append(f"{format_count(self.inference_tokens)} tokens served")
        if self.tokens_available is not None:
            amount.append(f"{format_count(self.tokens_available)} unique tokens")
        return ", ".join(amount) + (f" ({', '.join(details)})" if details else "")

    def to_json(self) -> dict:
        """What was given, and the FLOPs that follow from it."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, record: dict) -> Budget:
        """The budget that ``to_json`` wrote.

        Raises:
            UserError: unknown fields, or no valid budget.
        """
        unknown = set(record) - set(cls.__dataclass_fields__)
        if unknown:
            raise UserError(f"a budget has no field {', '.join(sorted(unknown))}")
        derived = record.get("hours") is not None or record.get("cost") is not None
        return cls(**{name: value for name, value in record.items() if not (derived and name == "flops")})

    def _check_amount(self) -> None:
        given = [name for name in ("flops", "hours", "cost", "loss") if vars(self)[name] is not None]
        if None not in (self.num_params, self.tokens):
            given.append("num_params and tokens together")
        if not given and (self.num_params or self.tokens) is not None:
            return
        if len(given) != 1:
            mistake = f"not {' and '.join(given)}" if given else "none was given"
            raise UserError(f"a budget is one of FLOPs, hours, cost, a loss to reach, num_params or tokens: {mistake}")
        if given[0] in ("hours", "cost") and self.rate is None:
            raise UserError(f"a budget by {given[0]} needs a device, or flops_per_second as measured")
        if self.cost is not None and self.price_per_hour is None:
            raise UserError("a budget by cost needs price_per_hour, the price of one device for an hour")

    def _check_machine(self) -> None:
        if self.device is not None and self.flops_per_second is not None:
            raise UserError("give a device or flops_per_second, not both")
        useless = [name for name in ("num_devices", "mfu") if vars(self)[name] is not None and self.device is None]
        if self.price_per_hour is not None and self.device is None and self.flops_per_second is None:
            useless.append("price_per_hour")
        if useless:
            have, them = ("have", "them") if len(useless) > 1 else ("has", "it")
            raise UserError(f"{' and '.join(useless)} {have} no use without a device: give one, or leave {them} out")

    def _fill_device(self, name: str) -> None:
        num_devices = 1 if self.num_devices is None else self.num_devices
        mfu = DEFAULT_MFU if self.mfu is None else self.mfu
        if mfu > 1:
            raise UserError(f"mfu is a share of the peak, above 0 and at most 1, not {mfu:g}")
        if num_devices != int(num_devices):
            raise UserError(f"num_devices must be whole, not {num_devices!r}")
        for field, value in (("device", device(name).name), ("num_devices", int(num_devices)), ("mfu", mfu)):
            object.__setattr__(self, field, value)

    def _machine_words(self) -> list[str]:
        words = []
        if self.device is not None:
            words.append(f"{self.num_devices} × {self.device}")
        if self.flops_per_second is not None:
            words.append(f"{format_flops(self.flops_per_second)} FLOP/s measured")
        if self.hours is not None:
            words.append(f"{self.hours:g} h")
        if self.mfu is not None:
            words.append(f"{100 * self.mfu:g} % of peak")
        return words


def throughput(observations: Observations) -> float:
    """FLOPs a second that the largest runs of a table reached: their tokens a second times their FLOPs a token.

    The median over the third of the runs with the most FLOPs, for ``Budget(flops_per_second=…)``. It holds for the
    machine that trained them, and for models of about their size: larger ones use a machine better.

    Raises:
        UserError: the table has no tokens_per_second.
    """
    speed = np.asarray(observations.column("tokens_per_second"), float)
    known = np.isfinite(speed) & (speed > 0)
    if not known.any():
        raise UserError("no run has tokens_per_second: give flops_per_second or a device")
    flops, tokens = observations.flops[known], observations.tokens[known]
    largest = np.argsort(flops, kind="stable")[2 * len(flops) // 3 :]
    return float(np.median((speed[known] * flops / tokens)[largest]))
