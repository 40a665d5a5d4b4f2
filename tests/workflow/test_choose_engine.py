"""Which engine and device a command takes by its options. Nothing is started."""

import pytest

from allometry.errors import UserError
from allometry.runs.engines.local import LocalEngine
from allometry.runs.engines.ray_cluster import RayEngine
from allometry.runs.engines.slurm import SlurmEngine
from allometry.runs.machine import cores
from allometry.workflow import choose_engine as engines


def test_by_default_each_core_of_this_machine_has_a_worker():
    made = engines.for_ladder("local", "cpu", 0.0)
    assert isinstance(made, LocalEngine)
    assert (made.workers, made.threads, made.device) == (cores(), 1, "cpu")
    alone = engines.for_one_run("cpu")
    assert (alone.workers, alone.threads, alone.device) == (1, cores(), "cpu")


def test_each_accelerator_has_a_worker(monkeypatch):
    monkeypatch.setattr(engines, "_device", lambda name: ("cuda", 4))
    made = engines.for_ladder("local", "auto", 0.0)
    assert (made.workers, made.device) == (4, "cuda")


def test_a_cluster_hands_out_gpus():
    ray, slurm = engines.for_ladder("ray", "auto", 0.5), engines.for_ladder("slurm", "cuda", 2.0)
    assert isinstance(ray, RayEngine)
    assert (ray.gpus, ray.device) == (0.5, "cuda")
    assert isinstance(slurm, SlurmEngine)
    assert slurm.gpus == 2


@pytest.mark.parametrize(
    ("node", "gpus", "room"),
    [
        ({"CPU": 8.0}, 0, 8),
        ({"CPU": 8.0, "GPU": 2.0}, 0.5, 4),
        ({"CPU": 3.0, "GPU": 2.0}, 0.5, 3),
        ({"CPU": 8.0, "GPU": 4.0}, 2, 2),
        ({"CPU": 8.0}, 1, 0),
    ],
)
def test_a_node_has_room_for_so_many_workers(node, gpus, room):
    assert RayEngine(gpus=gpus)._room(node) == room


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("cloud", "auto", 0.0), "--engine cloud: unknown; there are local, ray, slurm"),
        (("local", "cpu", 1.0), "on this machine give --device cuda"),
        (("ray", "cpu", 1.0), "a worker of a cluster trains on a GPU"),
        (("slurm", "auto", 0.5), "Slurm hands out whole GPUs"),
        (("local", "gpu", 0.0), "--device gpu: unknown"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        engines.for_ladder(*options)


def test_a_ladder_is_not_for_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(UserError, match="torchrun is for `allometry train`"):
        engines.for_ladder("local", "cpu", 0.0)


def test_parallel_without_torchrun_is_refused():
    with pytest.raises(UserError, match="start them by torchrun"):
        engines.for_train("cpu", "fsdp")
