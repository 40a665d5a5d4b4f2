"""What a plan may spend and is held to: FLOPs, hours, money or a goal; the machine; the data; the use afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import UserError
from ...laws import Observations
from ...quantities import format_count, format_flops, require_positive

DEFAULT_MFU = 0.4


@dataclass(frozen=True)
class Device:
    """One accelerator: dense BF16 peak with FP32 accumulation (FLOP/s), memory (bytes), source."""

    name: str
    peak_flops: float
    memory: float
    source: str


def _table(*rows: tuple[str, float, float, str]) -> dict[str, Device]:
    return {
        name: Device(name, teraflops * 1e12, gigabytes * 1e9, source) for name, teraflops, gigabytes, source in rows
    }


# Datasheets print twice these figures where they count 2:4 sparsity; training multiplies dense matrices.
DEVICES: dict[str, Device] = _table(
    ("a100", 312, 80, "NVIDIA A100 80GB datasheet"),
    ("h100", 989, 80, "NVIDIA H100 SXM datasheet"),
    ("h100-pcie", 756, 80, "NVIDIA H100 PCIe datasheet"),
    ("gh200", 989, 96, "NVIDIA GH200 datasheet, 96 GB HBM3"),
    ("h200", 989, 141, "NVIDIA H200 SXM datasheet"),
    ("b200", 2250, 180, "NVIDIA HGX B200 datasheet"),
    ("l4", 121, 24, "NVIDIA L4 datasheet"),
    ("l40s", 362, 48, "NVIDIA L40S datasheet"),
    ("a10", 125, 24, "NVIDIA A10 datasheet"),
    ("rtx3090", 71, 24, "NVIDIA GA102 white paper"),
    ("rtx4090", 165.2, 24, "NVIDIA Ada white paper"),
    ("mi250x", 383, 128, "AMD Instinct MI250X datasheet"),
    ("mi300x", 1307.4, 192, "AMD Instinct MI300X datasheet"),
    ("tpu-v4", 275, 32, "Google Cloud TPU v4 documentation"),
    ("tpu-v5e", 197, 16, "Google Cloud TPU v5e documentation"),
    ("tpu-v5p", 459, 95, "Google Cloud TPU v5p documentation"),
    ("tpu-v6e", 918, 32, "Google Cloud TPU v6e documentation"),
)


def device(name: str) -> Device:
    """The device of that name, whatever its case.

    Raises:
        UserError: it is not in the table; the message names the known ones.
    """
    key = str(name).strip().lower().replace("_", "-").replace(" ", "-")
    if key not in DEVICES:
        known = ", ".join(DEVICES)
        raise UserError(f"unknown device {name!r}; known: {known}; or give a measured flops_per_second and hours")
    return DEVICES[key]


@dataclass(frozen=True)
class Budget:
    """What may be spent, on which machine, and what else a plan must respect.

    How much, exactly one of:

    - ``flops``: training FLOPs (with ``inference_tokens``: of training and serving together);
    - ``hours`` on a machine, or ``cost`` at its ``price_per_hour`` (of one device; any currency);
    - a goal, whose cost the plan computes: a ``loss`` to reach, or both ``num_params`` and ``tokens``.

    The machine: ``device`` with ``num_devices`` (1) and ``mfu`` (0.4; the share reached of the dense BF16 peak), or
    ``flops_per_second`` as measured, of all devices together (see ``throughput``). FLOPs and goals need no machine;
    with one, the plan has hours too, and a cost if there is a price.

    Constraints: ``num_params`` or ``tokens`` fixes that one. ``tokens_available`` unique tokens are repeated if the
    plan trains on more. ``inference_tokens`` will be read or written by the model after training. ``memory`` (bytes of
    a device) is by default that of the table.

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
        """Whether the budget is a loss to reach, or a size and tokens, instead of an amount."""
        return self.loss is not None or None not in (self.num_params, self.tokens)

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

    def seconds(self, flops: float) -> float | None:
        """The time that so many FLOPs take; None without a machine."""
        return None if self.rate is None else flops / self.rate

    def money(self, seconds: float | None) -> float | None:
        """The price of so many seconds; None without a price."""
        if self.price_per_hour is None or seconds is None:
            return None
        return self.price_per_hour * (self.num_devices or 1) * seconds / 3600.0

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
        if len(given) != 1:
            mistake = f"not {' and '.join(given)}" if given else "none was given"
            raise UserError(
                f"a budget is one of flops, hours, cost, a loss to reach, or num_params and tokens together: {mistake}"
            )
        if given[0] in ("hours", "cost") and self.rate is None:
            raise UserError(f"a budget by {given[0]} needs a device, or flops_per_second as measured")
        if self.cost is not None and self.price_per_hour is None:
            raise UserError("a budget by cost needs price_per_hour (--price), the price of one device for an hour")

    def _check_machine(self) -> None:
        if self.device is not None and self.flops_per_second is not None:
            raise UserError("give a device or flops_per_second, not both")
        useless = [name for name in ("num_devices", "mfu") if vars(self)[name] is not None and self.device is None]
        if self.price_per_hour is not None and self.device is None and self.flops_per_second is None:
            useless.append("price_per_hour")
        if useless:
            raise UserError(f"{' and '.join(useless)} have no use without a device: give one, or leave them out")

    def _fill_device(self, name: str) -> None:
        num_devices = 1 if self.num_devices is None else self.num_devices
        mfu = DEFAULT_MFU if self.mfu is None else self.mfu
        if mfu > 1:
            raise UserError(f"mfu is a share of the peak, above 0 and at most 1, not {mfu:g}")
        if num_devices != int(num_devices):
            raise UserError(f"the number of devices (num_devices) must be whole, not {num_devices!r}")
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
