"""Accelerators by name: peak FLOP/s, memory, and the source of both."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from ...errors import UserError


@dataclass(frozen=True)
class Device:
    """One accelerator: dense BF16 peak with FP32 accumulation (FLOP/s), memory (bytes), source.

    ``per_node`` devices share a fast link, within which tensor parallelism stays.
    """

    name: str
    peak_flops: float
    memory: float
    source: str
    per_node: int = 8


def _table(*rows: tuple[str, float, float, int, str]) -> dict[str, Device]:
    return {
        name: Device(name, teraflops * 1e12, gigabytes * 1e9, source, per_node)
        for name, teraflops, gigabytes, per_node, source in rows
    }


_PLACES = ("auto", "cpu", "cuda", "gpu", "mps", "xla")  # what one trains on, and no accelerator's name
# Datasheets print twice these figures where they count 2:4 sparsity; training multiplies dense matrices.
DEVICES: dict[str, Device] = _table(
    ("v100", 125, 32, 8, "NVIDIA V100 datasheet; FP16, as it has no BF16"),
    ("a100-40gb", 312, 40, 8, "NVIDIA A100 40GB datasheet"),
    ("a100", 312, 80, 8, "NVIDIA A100 80GB datasheet"),
    ("h100", 989, 80, 8, "NVIDIA H100 SXM datasheet"),
    ("h100-pcie", 756, 80, 8, "NVIDIA H100 PCIe datasheet"),
    ("h800", 989, 80, 8, "NVIDIA H800 SXM: H100 with slower links"),
    ("gh200", 989, 96, 1, "NVIDIA GH200 datasheet, 96 GB HBM3"),
    ("h200", 989, 141, 8, "NVIDIA H200 SXM datasheet"),
    ("b200", 2250, 180, 8, "NVIDIA HGX B200 datasheet: 36 PFLOPS of 8 with sparsity"),
    ("b300", 2250, 270, 8, "NVIDIA HGX B300 datasheet: 36 PFLOPS and 2.1 TB of 8, with sparsity"),
    ("gb200", 2500, 186, 72, "NVIDIA GB200 NVL72 datasheet: 360 PFLOPS and 13.4 TB of 72, with sparsity"),
    ("gb300", 2500, 279, 72, "NVIDIA GB300 NVL72 datasheet: 360 PFLOPS and 20 TB of 72, with sparsity"),
    ("l4", 121, 24, 1, "NVIDIA L4 datasheet"),
    ("l40s", 362, 48, 1, "NVIDIA L40S datasheet"),
    ("a10", 125, 24, 1, "NVIDIA A10 datasheet"),
    ("a6000", 154.8, 48, 1, "NVIDIA RTX A6000 datasheet: 309.7 with sparsity"),
    ("rtx3090", 71, 24, 1, "NVIDIA GA102 white paper"),
    ("rtx4090", 165.2, 24, 1, "NVIDIA Ada white paper"),
    ("rtx5090", 209.5, 32, 1, "NVIDIA RTX Blackwell white paper: 838 with sparsity and FP16 accumulation"),
    ("mi250x", 383, 128, 8, "AMD Instinct MI250X datasheet"),
    ("mi300x", 1307.4, 192, 8, "AMD Instinct MI300X datasheet"),
    ("mi325x", 1307.4, 256, 8, "AMD Instinct MI325X datasheet"),
    ("mi350x", 2306.9, 288, 8, "AMD Instinct MI350X: 256 units × 4096 FLOPs × 2.2 GHz"),
    ("mi355x", 2516.6, 288, 8, "AMD Instinct MI355X: 256 units × 4096 FLOPs × 2.4 GHz"),
    ("tpu-v3", 123, 32, 4, "Google Cloud TPU v3 documentation"),
    ("tpu-v4", 275, 32, 4, "Google Cloud TPU v4 documentation"),
    ("tpu-v5e", 197, 16, 8, "Google Cloud TPU v5e documentation"),
    ("tpu-v5p", 459, 95, 4, "Google Cloud TPU v5p documentation"),
    ("tpu-v6e", 918, 32, 8, "Google Cloud TPU v6e documentation"),
    ("trn1", 191, 32, 16, "AWS Neuron documentation, Trainium"),
    ("trn2", 667, 96, 16, "AWS Neuron documentation, Trainium2"),
    ("m4-max", 18.4, 128, 1, "Apple M4 Max: 40 GPU cores × 128 × 2 FLOPs × 1.8 GHz, in FP32; Apple prints no BF16"),
)
# Words that people add or leave out: makers, series and form factors that a name has only one of.
_LEFT_OUT = re.compile(
    r"nvidia|geforce|amd|instinct|google|cloud|aws|apple|tesla|rtx|tpu|radeon|sxm\d?|\b(80|141|180|192)gb\b"
)


def device(name: str) -> Device:
    """The device of that name, whatever its case, with or without its maker and series ("RTX 4090", "v5p").

    Raises:
        UserError: it is not in the table; the message names the nearest ones.
    """
    key = re.sub(r"[\s_]+", "-", str(name).strip().lower())
    if key in _PLACES:
        raise UserError(
            f"device {name!r} is a place to train, whose speed is not known: name the accelerator, such as h100 or "
            "rtx4090; for a CPU, give its flops_per_second as measured"
        )
    if key in DEVICES:
        return DEVICES[key]
    bare = {_bare(known): known for known in DEVICES}
    if _bare(key) in bare:
        return DEVICES[bare[_bare(key)]]
    near = [known for known in DEVICES if len(key) > 1 and (key in known or known in key)]
    near = near or difflib.get_close_matches(key, DEVICES, n=3, cutoff=0.6)
    if near:
        raise UserError(f"unknown device {name!r}; did you mean {' or '.join(near)}?")
    known = ", ".join(DEVICES)
    raise UserError(
        f"unknown device {name!r}; known: {known}; for any other, and for a CPU, give its flops_per_second as measured"
    )


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _LEFT_OUT.sub("", name))
