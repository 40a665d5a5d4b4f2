"""How long a folder of a thousand finished runs takes to import, and how much memory; a point logged by a recorder;
what the ladder adds to each run of a program.

    python benchmarks/import_speed.py [--runs 1000] [--points 1000] [--only import|log|program] [--output FILE]

The folder holds checkpoints of Hugging Face's Trainer with their curves (``runs`` × ``points`` rows), made here. The
import runs in a fresh process: its wall time, its processor time and its peak of resident memory. A point is timed
in the loop: the median, and what 99 of 100 stay below. The program does nothing but write a result, so that all but
its own start is the ladder's: seconds of the ladder's runs over seconds of the same commands by ``subprocess.run``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from allometry import Recorder, workflow
from allometry.files import write_json
from allometry.workflow.programs.script_study import read_script_study

IMPORT = """
import json, resource, sys, time
begin = time.perf_counter()
from allometry import workflow
workflow.import_runs(sys.argv[1], sys.argv[2])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"wall": time.perf_counter() - begin, "cpu": used.ru_utime + used.ru_stime,
                  "peak_mb": used.ru_maxrss / 1024}))
"""
PROGRAM = """
import json, sys
width, tokens, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
json.dump({"loss": 1 + 10 / width + 100 / tokens**0.5, "params": width * width}, open(out + "/result.json", "w"))
"""
STUDY = """
widths = [8, 12, 16]
tokens = [10000, 20000, 40000]
batch_tokens = 100
lr = 0.01
[trainer]
command = "{python} program.py {{width}} {{tokens}} {{out}}"
result = "{{out}}/result.json"
loss = "loss"
num_params = "params"
"""


def made_runs(folder: Path, runs: int, points: int) -> None:
    """Checkpoints of a Trainer: state with its curve, configuration, no weights."""
    shape = {"num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 1000, "max_position_embeddings": 128}
    for number in range(runs):
        place = folder / f"run-{number:04d}" / f"checkpoint-{points}"
        place.mkdir(parents=True)
        width = 64 * (1 + number % 8)
        config = shape | {"hidden_size": width, "intermediate_size": 4 * width}
        (place / "config.json").write_text(json.dumps(config))
        rows: list[dict[str, Any]] = [
            {"step": step, "epoch": step / points, "loss": 3 + 5 / step, "grad_norm": 1.0, "learning_rate": 1e-3 / step}
            for step in range(1, points + 1)
        ]
        rows.append({"step": points, "epoch": 1.0, "eval_loss": 3 + 50 / width + number / 1e5})
        state = {"global_step": points, "max_steps": points, "num_input_tokens_seen": 1000 * points * (1 + number % 5)}
        (place / "trainer_state.json").write_text(json.dumps(state | {"log_history": rows}))


def time_import(folder: Path, runs: int, points: int) -> dict[str, float]:
    made_runs(folder / "source", runs, points)
    command = [sys.executable, "-c", IMPORT, str(folder / "source"), str(folder / "study")]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def time_log(folder: Path, points: int = 20_000) -> dict[str, float]:
    times = []
    with Recorder(folder / "recorded", num_params=1_000_000, batch_tokens=1000, lr=1e-3) as run:
        for step in range(points):
            begin = time.perf_counter()
            run.log(step=step, loss=3.0, tokens=1000.0 * step)
            times.append(1e6 * (time.perf_counter() - begin))
        run.finish(loss=3.0)
    ordered = sorted(times)
    return {
        "median_us": statistics.median(times),
        "p99_us": ordered[int(0.99 * points)],
        "mean_us": sum(times) / points,
    }


def time_program(folder: Path) -> dict[str, float]:
    (folder / "program.py").write_text(PROGRAM)
    (folder / "study.toml").write_text(STUDY.format(python=sys.executable))
    config = read_script_study(folder / "study.toml")
    assert config is not None
    begin = time.perf_counter()
    with workflow.open_script_study(config, folder / "ladder") as session:
        opened = time.perf_counter() - begin
        begin = time.perf_counter()
        records = session.train_rungs(session.run_sweep())
        ladder = time.perf_counter() - begin
    (folder / "alone").mkdir()
    begin = time.perf_counter()
    for record in records:
        command = [sys.executable, "program.py", str(record.config.model.width), str(record.tokens), "alone"]
        subprocess.run(command, cwd=folder, check=True)
    alone = time.perf_counter() - begin
    runs, at_once = len(records), session.speed.workers
    each = at_once * ladder / runs
    return {"runs": runs, "at_once": at_once, "opening": opened, "each": each, "alone": alone / runs,
            "added_each": each - alone / runs}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--only", choices=("import", "log", "program"))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    jobs = {
        "import": lambda folder: time_import(folder, args.runs, args.points),
        "log": time_log,
        "program": time_program,
    }
    results: dict[str, Any] = {}
    for name in [args.only] if args.only else list(jobs):
        with tempfile.TemporaryDirectory() as folder:
            results[name] = jobs[name](Path(folder))
        print(name, {key: round(value, 3) for key, value in results[name].items()}, flush=True)
    if args.output:
        write_json(args.output, results)


if __name__ == "__main__":
    main()
