"""A budget in one of three ways (FLOPs, devices and hours, measured throughput and hours) turned into FLOPs."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError
from ..quantities import format_flops
from .formula import require_positive

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
    """Training FLOPs, given in exactly one way; ``flops`` is always filled.

    - ``Budget(flops=1e21)``;
    - ``Budget(device="h100", count=8, hours=72, mfu=0.4)``: dense BF16 peak × count × time × utilisation (MFU);
    - ``Budget(flops_per_second=2e12, hours=10)``: a measured throughput, utilisation included.

    ``count`` defaults to 1 and ``mfu`` to 0.4.

    Raises:
        UserError: no way or more than one, a part missing, a number not above zero, an MFU above 1, unknown device.
    """

    flops: float | None = None
    device: str | None = None
    count: int | None = None
    hours: float | None = None
    mfu: float | None = None
    flops_per_second: float | None = None

    def __post_init__(self) -> None:
        require_positive(
            flops=self.flops, hours=self.hours, mfu=self.mfu, count=self.count, flops_per_second=self.flops_per_second
        )
        ways = [name for name in ("flops", "device", "flops_per_second") if getattr(self, name) is not None]
        if len(ways) != 1:
            given = f"not {' and '.join(ways)} together" if ways else "none was given"
            raise UserError(
                f"a budget is flops, or device and hours, or flops_per_second and hours: exactly one; {given}"
            )
        self._refuse_stray(ways[0])
        if ways[0] != "flops" and self.hours is None:
            raise UserError(f"a budget by {ways[0]} needs hours")
        if ways[0] == "device":
            self._fill_device()
        if ways[0] != "flops":
            object.__setattr__(self, "flops", self.rate * self.hours * 3600.0)

    def _refuse_stray(self, way: str) -> None:
        belongs = {"flops": (), "device": ("count", "hours", "mfu"), "flops_per_second": ("hours",)}[way]
        stray = [x for x in ("count", "hours", "mfu") if x not in belongs and getattr(self, x) is not None]
        if stray:
            raise UserError(f"a budget by {way} does not take {' or '.join(stray)}: leave it out")

    def _fill_device(self) -> None:
        count = 1 if self.count is None else self.count
        mfu = DEFAULT_MFU if self.mfu is None else self.mfu
        if mfu > 1:
            raise UserError(f"mfu is a share of the peak, above 0 and at most 1, not {mfu:g}")
        if count != int(count):
            raise UserError(f"count must be a whole number of devices, not {count!r}")
        for name, value in (("device", device(self.device).name), ("count", int(count)), ("mfu", mfu)):
            object.__setattr__(self, name, value)

    @property
    def rate(self) -> float | None:
        """FLOPs a second that the budget stands for; None where only FLOPs were given."""
        if self.device is not None:
            return device(self.device).peak_flops * self.count * self.mfu
        return self.flops_per_second

    def describe(self) -> str:
        """One line: ``1.54e+21 FLOPs (8 × h100, 72 h, 40 % of peak)``."""
        total = f"{format_flops(self.flops)} FLOPs"
        if self.device is not None:
            return f"{total} ({self.count} × {self.device}, {self.hours:g} h, {100 * self.mfu:g} % of peak)"
        if self.flops_per_second is not None:
            return f"{total} ({format_flops(self.flops_per_second)} FLOP/s measured, {self.hours:g} h)"
        return total

    def to_json(self) -> dict:
        """What was given, and the FLOPs that it makes."""
        given = {name: getattr(self, name) for name in ("device", "count", "hours", "mfu", "flops_per_second")}
        return {"flops": self.flops} | {name: value for name, value in given.items() if value is not None}

    @classmethod
    def from_json(cls, record: dict) -> Budget:
        """The budget that ``to_json`` wrote.

        Raises:
            UserError: unknown fields, or no valid budget.
        """
        unknown = set(record) - set(cls.__dataclass_fields__)
        if unknown:
            raise UserError(f"a budget has no field {', '.join(sorted(unknown))}")
        derived = record.get("device") is not None or record.get("flops_per_second") is not None
        return cls(**{name: value for name, value in record.items() if not (derived and name == "flops")})
