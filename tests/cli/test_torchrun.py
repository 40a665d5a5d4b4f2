"""`allometry train` in the processes that torchrun starts: what the user sees of it."""

import os
import socket
import subprocess
import sys

from allometry.runs.store import Study

RUN = """
data = "{text}"
[model]
width = 16
layers = 2
head_dim = 8
hidden = 24
context = 32
[train]
tokens = 4_000
batch_tokens = 2048
warmup_tokens = 300
lr = 0.3
"""


def launch(*arguments, size=2):
    """As torchrun starts them, without its own report: statuses, standard outputs, standard errors."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    common |= {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(size)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "allometry", "train", *map(str, arguments)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    texts = [process.communicate(timeout=120) for process in processes]
    return [process.returncode for process in processes], *zip(*texts, strict=True)


def test_a_run_of_two_processes_is_a_run_like_any_other(cli, tmp_path):
    text, run, out = tmp_path / "text.txt", tmp_path / "run.toml", tmp_path / "s"
    text.write_text("\n".join(f"line {number} of {number % 7} words" for number in range(9000)))
    run.write_text(RUN.format(text=text))
    statuses, printed, said = launch(run, "--out", out)
    assert statuses == [0, 0], said
    record = Study.open(out).records()[0]
    assert printed[0].startswith(f"{out}/{record.id}: finished, loss {record.loss:.4f}")
    assert (printed[1], said[1]) == ("", "")
    assert record.environment["processes"] == 2
    assert record.environment["parallel"] == "ddp"  # it fits
    status, written, _ = cli("generate", out, "--tokens", 5, "--prompt", "line ")
    assert status == 0
    assert written.startswith("line ")
    statuses, printed, said = launch(run, "--out", out)  # recorded already
    assert statuses == [0, 0]
    assert record.id in printed[0]


def test_a_mistake_is_one_line_of_one_process_and_ends_all(tmp_path):
    statuses, printed, said = launch(tmp_path / "none.toml")
    assert statuses == [2, 2]
    assert printed == ("", "")
    assert said[0].count("\n") == 1
    assert said[0].startswith("allometry: ")
    assert "none.toml" in said[0]
    assert said[1] == ""


def test_parallel_without_torchrun_is_refused(cli, tmp_path):
    status, _, said = cli("train", tmp_path / "none.toml", "--parallel", "fsdp")
    assert status == 2
    assert "start them by torchrun" in said
