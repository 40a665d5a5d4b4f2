"""What trains: processes on this machine, all processes that torchrun started, a Ray cluster, Slurm."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import UserError
from ..runs.engines.contract import Engine, LadderEngine
from ..runs.engines.local import LocalEngine
from ..runs.machine import cores

ENGINES = ("local", "ray", "slurm")


def for_ladder(engine: str = "local", device: str = "auto", gpus: float = 0.0) -> LadderEngine:
    """The engine of a ladder's many small runs.

    Raises:
        UserError: the engine is unknown, or the options do not go together.
    """
    if _under_torchrun():
        raise UserError("torchrun is for `allometry train`; a ladder takes many machines by --engine ray or slurm")
    if engine == "local":
        if gpus:
            raise UserError("--gpus is for --engine ray and slurm; on this machine give --device cuda")
        kind, num_devices = _device(device)
        return LocalEngine() if kind == "cpu" else LocalEngine(workers=num_devices, device=kind)
    if device not in ("auto", "cuda" if gpus else "cpu"):
        raise UserError(f"--device {device}: a worker of a cluster trains on a GPU with --gpus 1, else on the CPU")
    if engine == "ray":
        from ..runs.engines.ray_cluster import RayEngine

        return RayEngine(gpus=gpus)
    if engine == "slurm":
        from ..runs.engines.slurm import SlurmEngine

        if gpus != int(gpus):
            raise UserError(f"--gpus {gpus:g}: Slurm hands out whole GPUs")
        return SlurmEngine(gpus=int(gpus))
    raise UserError(f"--engine {engine}: unknown; there are {', '.join(ENGINES)}")


def for_programs(engine: str = "local", device: str = "auto", gpus: float = 0.0) -> LadderEngine:
    """The engine of a ladder whose trainer starts programs: here one for each GPU, or for each core without any.

    Raises:
        UserError: as :func:`for_ladder`.
    """
    if _under_torchrun():
        raise UserError("torchrun is for `allometry train`; a program may start it itself, as its command says")
    if engine == "local":
        if gpus:
            raise UserError("--gpus is for --engine ray and slurm; on this machine give --device cuda")
        count = visible_gpus() if device in ("auto", "cuda") else 0
        if device not in ("auto", "cpu") and not count:
            raise UserError(f"--device {device}: a program can be given GPUs (cuda), and this machine shows none")
        return LocalEngine(workers=count or None, device="cuda" if count else "cpu", trainer="script")
    if engine == "ray":
        from ..runs.engines.ray_cluster import RayEngine

        return RayEngine(gpus=gpus, trainer="script")
    return for_ladder(engine, device, gpus)


def visible_gpus() -> int:
    """How many GPUs a program started here would see; asked without any library."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return len([name for name in named.split(",") if name.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])


def for_one_run(device: str = "auto") -> LocalEngine:
    """The engine of one run on this machine: a process that has all its cores, or one of its devices."""
    return LocalEngine(workers=1, threads=cores(), device=_device(device)[0])


def for_train(device: str = "auto", parallel: str = "auto") -> Engine:
    """The engine of a single large run: all processes that torchrun started, or else one process."""
    if _under_torchrun():
        from ..lm.distributed.crew import enlist

        return enlist(device, parallel)
    if parallel != "auto":
        raise UserError("--parallel is for several processes; start them by torchrun -m allometry train …")
    return for_one_run(device)


def _under_torchrun() -> bool:
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()


def _device(name: str) -> tuple[str, int]:
    """The kind of device and how many there are. PyTorch is asked only where there may be more than the CPU."""
    if name == "cpu" or (name == "auto" and sys.platform != "darwin" and not Path("/dev/nvidiactl").exists()):
        return "cpu", 1
    from ..lm import device as devices

    kind = devices.pick(name).type
    return kind, devices.count(kind)
