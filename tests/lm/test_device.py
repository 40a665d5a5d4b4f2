"""One module for devices. No accelerator is to be had here: CUDA and MPS are made believe, and only choices tested."""

import pytest
import torch

from allometry.errors import UserError
from allometry.lm import device as devices
from allometry.runs.engines.worker_process import start_worker


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many devices of each kind."""

    def made(**counts):
        monkeypatch.setattr(devices, "count", lambda kind: counts.get(kind, 1 if kind == "cpu" else 0))

    return made


def test_auto_is_cuda_then_mps_then_the_cpu(machine):
    machine(cuda=2, mps=1)
    assert devices.pick("auto") == torch.device("cuda", 0)
    machine(mps=1)
    assert devices.pick("auto") == torch.device("mps", 0)
    machine()
    assert devices.pick("auto") == devices.pick("cpu") == torch.device("cpu")


def test_each_process_has_a_device_of_its_own(machine):
    machine(cuda=4)
    assert [devices.pick("cuda", place, 4).index for place in range(4)] == [0, 1, 2, 3]


def test_more_processes_than_devices_are_refused(machine):
    machine(cuda=2)
    with pytest.raises(UserError, match="3 processes on this machine, but 2 cuda devices: start 2"):
        devices.pick("auto", 0, 3)


@pytest.mark.parametrize("name", ["cuda", "mps", "xla"])
def test_a_device_that_is_not_there_is_refused(machine, name):
    machine()
    with pytest.raises(UserError, match=f"--device {name}: this machine .* have none; there is --device cpu"):
        devices.pick(name)


def test_an_unknown_device_is_refused():
    with pytest.raises(UserError, match="--device gpu: unknown; there are auto, cpu, cuda, mps, xla"):
        devices.pick("gpu")


def test_a_tensor_is_put_where_it_is_wanted():
    here = torch.arange(3)
    assert devices.put(here, devices.CPU) is here
    assert devices.put(here, torch.device("meta")).is_meta


def test_bf16_is_tried_before_it_is_used(monkeypatch):
    devices.check_precision(devices.CPU, "bf16")
    devices.check_precision(torch.device("meta"), "fp32")
    with pytest.raises(UserError, match='does not compute in bf16; give precision = "fp32"'):
        devices.check_precision(torch.device("meta"), "bf16")  # which computes nothing


def test_free_memory_is_the_least_of_machine_and_control_group(tmp_path):
    assert devices._host_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 64 kB\nMemAvailable:   32 kB\n")
    assert devices._host_bytes(tmp_path) == 32 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1\n")
    assert devices._host_bytes(tmp_path) == 32 * 1024
    (group / "memory.max").write_text("5000\n")
    assert devices._host_bytes(tmp_path) == 4999
    assert devices.free_bytes(devices.CPU, 2) == pytest.approx(devices.free_bytes(devices.CPU) / 2, rel=0.2)


def test_threads_are_those_asked_for_or_a_share_of_the_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert devices.threads_for(2) == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("allometry.runs.machine.cores", lambda: 8)
    assert devices.threads_for(2) == 4
    assert devices.threads_for(100) == 1


def test_a_process_trains_on_the_device_that_its_starter_named(machine, monkeypatch):
    monkeypatch.setattr(devices, "start", lambda device: None)
    machine(cuda=4)
    monkeypatch.setenv("ALLOMETRY_DEVICE", "cuda")
    monkeypatch.setenv("ALLOMETRY_PLACE", "2")
    devices.mine.cache_clear()
    try:
        assert devices.mine() == torch.device("cuda", 2)
    finally:
        devices.mine.cache_clear()


def test_an_engine_names_it(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "allometry.runs.engines.worker_process.subprocess.Popen", lambda *args, **options: seen.update(options["env"])
    )
    start_worker(2, "cuda", 3)
    assert (seen["ALLOMETRY_DEVICE"], seen["ALLOMETRY_PLACE"], seen["OMP_NUM_THREADS"]) == ("cuda", "3", "2")
