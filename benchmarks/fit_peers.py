"""The fit of 240 Chinchilla points, by us and by others: seconds, objective, standard errors. Prints three tables.

    python benchmarks/fit_peers.py [--peers /path/to/python] [--output results/fit_peers.json]

The points are those of Besiroglu et al. 2024 (arXiv 2404.10102), in `data/` of the folder that ALLOMETRY_SHARED names
(default: `shared` in the folder that holds the repository). The objective is theirs, Huber's loss of ln L with
δ = 0.001. Ours is compared with

- their procedure, written anew: BFGS from each of 4500 starts, in a sum-of-exponentials form;
- chinchilla 0.2.0 from the same starts, and simple-scaling-laws 0.2.0 (which minimises squares of L), if they are
  installed for the interpreter that ``--peers`` names (the latter needs Python 3.12).

Each runs in one process. Ours is timed before and after each of the others, and a ratio is to those times. The tables
give processor seconds as well as seconds of the clock, because a busy machine affects only the latter.

The second table is about 4000 bootstrap refits: the published standard errors, ours over many seeds, and refits of the
same resamples as the published ones, by us and by BFGS as published. The third shows how many of those refits are at
their optimum, tested by further starts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import scipy
from scipy.optimize import minimize

from allometry import laws
from allometry.files import write_json
from allometry.laws.fitting.fit import make_problem
from allometry.laws.solver import solve

SHARED = Path(os.environ.get("ALLOMETRY_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
DELTA = 1e-3
OPTIMUM = 1.0182740178e-3
SYMBOLS = ("E", "A", "B", "alpha", "beta")
PUBLISHED = {"E": 0.02566, "A": 124.52, "B": 1293.28, "alpha": 0.01540, "beta": 0.02060}

# Hoffmann et al. 2022, appendix D.3: ln A, ln B, ln E, α, β.
GRID = {
    "a": np.arange(0, 30, 5.0),
    "b": np.arange(0, 30, 5.0),
    "e": np.arange(-1, 1.5, 0.5),
    "alpha": np.arange(0, 2.5, 0.5),
    "beta": np.arange(0, 2.5, 0.5),
}
# Where the published bootstrap starts each refit, and how it draws: Hoffmann's constants, NumPy's legacy seed.
PUBLISHED_START = (6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083)
PUBLISHED_SEED = 42

CHINCHILLA = """
import functools, importlib.metadata, json, sys, time
import numpy as np
from chinchilla import Chinchilla
from chinchilla._metrics import log_huber

folder, grid = sys.argv[1], json.loads(sys.argv[2])
huber = functools.partial(log_huber, delta=1e-3)
huber.__name__ = "log_huber"
peer = Chinchilla(folder, param_grid={name: grid[name] for name in ("e", "a", "b", "alpha", "beta")}, loss_fn=huber,
                  log_level=50)
wall, busy = time.perf_counter(), time.process_time()
peer.fit(parallel=False)
print(json.dumps({"seconds": [time.perf_counter() - wall], "busy": [time.process_time() - busy],
                  "values": peer.params, "version": importlib.metadata.version("chinchilla")}))
"""
SIMPLE = """
import importlib.metadata, json, sys, time
from simple_scaling_laws import fit

timed = {"seconds": [], "busy": [], "version": importlib.metadata.version("simple-scaling-laws")}
for _ in range(int(sys.argv[3])):
    wall, busy = time.perf_counter(), time.process_time()
    peer = fit(sys.argv[1] + "/runs.csv", n_draws=int(sys.argv[2]))
    timed["seconds"].append(time.perf_counter() - wall)
    timed["busy"].append(time.process_time() - busy)
values = peer.params(peer.primary_target)
for letter, exponent, name in (("A", "alpha", "model_size__N"), ("B", "beta", "dataset_size__D")):
    values[letter] *= peer.observed_domain[name]["reference"] ** values[exponent]
print(json.dumps(timed | {"values": values}))
"""


def published_points() -> laws.Observations:
    """The digitised points without the five highest losses."""
    points = laws.Observations.read(SHARED / "chinchilla" / "svg_extracted_data.csv")
    return points.where(points.loss < np.sort(points.loss)[-5])


def huber_of_logs(theta: np.ndarray, n: np.ndarray, d: np.ndarray, loss: np.ndarray) -> tuple[float, np.ndarray]:
    """Their objective and its gradient at (ln A, ln B, ln E, α, β), for logarithms of N, D and L."""
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * n, b - beta * d, np.full_like(n, e)])
    top = terms.max(axis=0)
    parts = np.exp(terms - top)
    total = parts.sum(axis=0)
    residual = top + np.log(total) - loss
    size = np.abs(residual)
    value = np.where(size <= DELTA, residual**2 / 2, DELTA * (size - DELTA / 2)).sum()
    pulls = np.clip(residual, -DELTA, DELTA) * parts / total
    return value, np.array([*pulls.sum(axis=1), -(pulls[0] * n).sum(), -(pulls[1] * d).sum()])


def bfgs(points: np.ndarray, start: tuple[float, ...], gtol: float = 1e-5) -> tuple[np.ndarray, float]:
    """SciPy's BFGS on rows (ln N, ln D, ln L); gtol 1e-5 is SciPy's default and theirs."""
    with np.errstate(over="ignore", invalid="ignore"):
        optimum = minimize(huber_of_logs, start, args=tuple(points), jac=True, method="BFGS", options={"gtol": gtol})
    return optimum.x, float(optimum.fun) if np.isfinite(optimum.fun) else np.inf


def logs(observations: laws.Observations) -> np.ndarray:
    """Rows ln N, ln D and ln L."""
    return np.log([observations.num_params, observations.tokens, observations.loss])


def letters(theta: np.ndarray) -> np.ndarray:
    """(..., ln A, ln B, ln E, α, β) → E, A, B, α, β."""
    a, b, e, alpha, beta = np.moveaxis(theta, -1, 0)
    return np.stack([np.exp(e), np.exp(a), np.exp(b), alpha, beta], axis=-1)


def objective(values: dict[str, float], observations: laws.Observations) -> float:
    """The Huber objective of constants by name."""
    theta = (*np.log([values["A"], values["B"], values["E"]]), values["alpha"], values["beta"])
    return float(huber_of_logs(np.array(theta), *logs(observations))[0])


def squares(values: dict[str, float], observations: laws.Observations) -> float:
    """½Σ(L − fitted)² of constants by name, what simple-scaling-laws minimises."""
    fitted = laws.LAWS["chinchilla"].loss(values, observations.num_params, observations.tokens)
    return 0.5 * float(((observations.loss - fitted) ** 2).sum())


def clock(run: Callable, times: int = 1) -> dict:
    """Median seconds by the clock and of the processor, and what the last run returned."""
    seconds, busy = [], []
    for _ in range(times):
        wall, processor = time.perf_counter(), time.process_time()
        result = run()
        seconds.append(time.perf_counter() - wall)
        busy.append(time.process_time() - processor)
    return {"seconds": float(np.median(seconds)), "busy": float(np.median(busy)), "result": result}


def beside(who: str, peer: Callable[[], dict | str], ours: Callable, measure: Callable, times: int) -> dict:
    """A peer between two halves of ours: seconds of both, their ratios, the objective of both."""
    before, theirs, after = clock(ours, times), peer(), clock(ours, times)
    if isinstance(theirs, str):
        return {"who": who, "absent": theirs}
    row = {"who": who, "version": theirs.get("version"), "values": theirs["values"]}
    row |= {"objective": measure(theirs["values"]), "our_objective": measure(after["result"].values)}
    for kind in ("seconds", "busy"):
        mine = (before[kind] + after[kind]) / 2
        row |= {kind: theirs[kind], f"our_{kind}": mine, f"{kind}_ratio": theirs[kind] / mine}
    return row


def from_every_start(points: np.ndarray) -> dict:
    """The published procedure: BFGS from the whole grid, the best of all."""
    timed = clock(lambda: min((bfgs(points, start) for start in product(*GRID.values())), key=lambda best: best[1]))
    values = dict(zip(SYMBOLS, map(float, letters(timed.pop("result")[0])), strict=True))
    return timed | {"values": values}


def foreign(python: str | None, limit: float, script: str, *arguments: str) -> dict | str:
    """What a peer's script printed, run by the interpreter that has it; or in words why there is nothing."""
    if python is None:
        return "not installed (give --peers)"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A session of its own, so that a pool which the peer opens ends with it.
    with subprocess.Popen([python, "-c", script, *arguments], env=environment, start_new_session=True, **pipes) as peer:
        try:
            output, errors = peer.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(peer.pid, signal.SIGKILL)
            return f"not done after {limit:.0f} s"
    if peer.returncode:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        return "not installed" if "ModuleNotFoundError" in last else f"failed: {last}"
    timed = json.loads(output.splitlines()[-1])
    return timed | {kind: float(np.median(timed[kind])) for kind in ("seconds", "busy")}


def write_tables(folder: Path, observations: laws.Observations) -> None:
    """The points as chinchilla (df.csv) and simple-scaling-laws (runs.csv) read them."""
    columns = (observations.num_params, observations.tokens, observations.loss)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    tables = {
        "df.csv": ["C,N,D,loss", *(f"{6 * n * d!r},{n!r},{d!r},{loss!r}" for n, d, loss in rows)],
        "runs.csv": [
            "training_run_id,model_size__N,dataset_size__D,test_loss__L",
            *(f"run{i},{n!r},{d!r},{loss!r}" for i, (n, d, loss) in enumerate(rows)),
        ],
    }
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n")


def peers(observations: laws.Observations, python: str | None, limit: float) -> list[dict]:
    """One row a peer."""
    fit = lambda loss, refits=0: laws.fit("chinchilla", observations, loss, DELTA, bootstrap=refits)
    of_logs = lambda values: objective(values, observations)
    of_losses = lambda values: squares(values, observations)
    grid = json.dumps({name: GRID[name].tolist() for name in ("e", "a", "b", "alpha", "beta")})
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder), observations)
        simple = lambda draws, times: foreign(python, limit, SIMPLE, folder, draws, times)
        chinchilla = lambda: foreign(python, limit, CHINCHILLA, folder, grid)
        huber, least_squares, refitted = lambda: fit("huber"), lambda: fit("squares"), lambda: fit("squares", 1000)
        huber(), least_squares()  # warm
        return [
            beside("simple-scaling-laws", lambda: simple("1", "3"), least_squares, of_losses, 10),
            beside("simple-scaling-laws, 1000 refits", lambda: simple("1000", "1"), refitted, of_losses, 2),
            beside("BFGS, 4500 starts", lambda: from_every_start(logs(observations)), huber, of_logs, 10),
            beside("chinchilla, 4500 starts", chinchilla, huber, of_logs, 10),
        ]


def over_seeds(observations: laws.Observations, count: int, seeds: int) -> dict:
    """Standard errors of ``laws.fit`` by ``count`` refits: mean and deviation over seeds, and seconds."""
    runs = [
        clock(lambda seed=seed: laws.fit("chinchilla", observations, "huber", DELTA, None, count, "pairs", seed))
        for seed in range(seeds)
    ]
    errors = np.array([[run["result"].standard_errors[symbol] for symbol in SYMBOLS] for run in runs])
    result = {kind: float(np.median([run[kind] for run in runs])) for kind in ("seconds", "busy")}
    result |= {"mean": errors.mean(axis=0), "deviation": errors.std(axis=0, ddof=1), "seeds": seeds}
    return result | {"values": runs[0]["result"].values}


def on_published_resamples(observations: laws.Observations, optimum: dict, count: int, judged: int) -> dict:
    """The resamples behind the published errors, refitted by BFGS as published and by us.

    The first ``judged`` of them are held against the best of both and of tighter BFGS from ours, theirs, and near ours.
    """
    generator = np.random.RandomState(PUBLISHED_SEED)
    picks = [generator.choice(len(observations), size=len(observations)) for _ in range(count)]
    rows, law = logs(observations), laws.LAWS["chinchilla"]
    problem, centre = make_problem(law, observations, "huber", DELTA)
    start = law.theta(np.array([optimum[symbol] for symbol in SYMBOLS]), centre)
    times = np.array([np.bincount(pick, minlength=len(observations)) for pick in picks], dtype=float)
    ours = clock(lambda: solve(problem, np.tile(start, (count, 1)), times))
    theirs = clock(lambda: [bfgs(rows[:, pick], PUBLISHED_START) for pick in picks])
    points, values = map(np.array, zip(*theirs["result"], strict=True))
    constants = {"ours": law.values(ours["result"][0], centre), "BFGS": letters(points)}
    reached = {"ours": ours["result"][1], "BFGS": values}
    best = np.minimum(reached["ours"], reached["BFGS"])[:judged]
    random = np.random.default_rng(0)
    for i, pick in enumerate(picks[:judged]):
        e, a, b, alpha, beta = constants["ours"][i]
        mine = np.array([np.log(a), np.log(b), np.log(e), alpha, beta])
        near = mine + random.normal(0, 1, (3, 5)) * (0.5, 0.5, 0.1, 0.03, 0.03)
        best[i] = min(best[i], *(bfgs(rows[:, pick], x, 1e-9)[1] for x in (mine, points[i], *near)))
    return {
        who: {
            "seconds": timed["seconds"],
            "busy": timed["busy"],
            "standard_errors": constants[who].std(axis=0, ddof=1),
            "short_of_the_best": float(np.mean(reached[who][:judged] > best * (1 + 1e-6))),
            "furthest": float((reached[who][:judged] / best - 1).max()),
        }
        for who, timed in (("ours", ours), ("BFGS", theirs))
    }


def print_peers(rows: list[dict]) -> None:
    print("| beside | seconds | ours | ratio | ratio, processor | objective | ours | theirs above ours |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        if "absent" in row:
            print(f"| {row['who']} | {row['absent']} |")
            continue
        print(
            f"| {row['who']} | {row['seconds']:.3g} | {row['our_seconds']:.3g} | {row['seconds_ratio']:.0f} | "
            f"{row['busy_ratio']:.0f} | {row['objective']:.9g} | {row['our_objective']:.9g} | "
            f"{row['objective'] / row['our_objective'] - 1:+.1e} |"
        )


def print_refits(seeds: dict, resamples: dict, count: int) -> None:
    published = np.array([PUBLISHED[symbol] for symbol in SYMBOLS])
    line = lambda who, values: print(f"| {who} | " + " | ".join(values) + " |")
    line(f"{count} refits: standard errors over the published", SYMBOLS)
    print("|---" * (len(SYMBOLS) + 1) + "|")
    share = lambda values: [f"{value:.4f}" for value in values / published]
    line(f"ours, mean of {seeds['seeds']} seeds", share(seeds["mean"]))
    line("ours, deviation of one seed from that mean", share(seeds["deviation"]))
    line("BFGS on the published resamples", share(resamples["BFGS"]["standard_errors"]))
    line("ours on the published resamples", share(resamples["ours"]["standard_errors"]))
    print(f"\nlaws.fit with {count} refits: {seeds['seconds']:.2f} s ({seeds['busy']:.2f} s of the processor)")
    for who, timed in resamples.items():
        print(
            f"{who} on the published resamples: {timed['seconds']:.1f} s ({timed['busy']:.1f} s of the processor); "
            f"{timed['short_of_the_best']:.1%} of those judged end over 1e-6 above the best known, "
            f"the furthest {timed['furthest']:.1e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="a Python that has chinchilla==0.2.0 and simple-scaling-laws==0.2.0")
    parser.add_argument("--limit", type=float, default=1800, help="seconds that a peer may take")
    parser.add_argument("--refits", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=10, help="bootstraps of ours")
    parser.add_argument("--judged", type=int, default=400, help="refits that are held against further starts")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    observations = published_points()
    optimum = laws.fit("chinchilla", observations, "huber", DELTA, bootstrap=0)
    excess = optimum.objective_value / OPTIMUM - 1
    print(
        f"{len(observations)} points; objective {optimum.objective_value:.12g}, {excess:+.1e} from the known optimum\n"
    )
    rows = peers(observations, arguments.peers, arguments.limit)
    print_peers(rows)
    seeds = over_seeds(observations, arguments.refits, arguments.seeds)
    resamples = on_published_resamples(observations, optimum.values, arguments.refits, arguments.judged)
    print()
    print_refits(seeds, resamples, arguments.refits)
    if arguments.output:
        versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
        result = {"versions": versions, "objective": optimum.objective_value, "optimum": OPTIMUM, "peers": rows}
        result |= {"refits": arguments.refits, "published": PUBLISHED, "seeds": seeds, "resamples": resamples}
        write_json(arguments.output, json.loads(json.dumps(result, default=np.ndarray.tolist)))


if __name__ == "__main__":
    main()
