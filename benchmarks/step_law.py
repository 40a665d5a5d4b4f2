"""What do rules for batch size and learning rate cost on the Step Law's grids, and what does ``planning.surface`` cost?

The table (arXiv 2503.04715; PlanarG/active-sl) holds 41 grids of (learning rate, batch), each at one size and number of
tokens: 17 with ten batches, on which the rule was fitted, and 24 smaller ones. The regret of a setting on a grid is the
excess loss (the loss there over the lowest loss of the grid − 1) in thousandths. "Linear" interpolates ln η and ln B
over a Delaunay triangulation, clipped to the grid; "nearest" takes the run nearest in (ln η, ln B). The lowest of a
hundred noisy runs is too low, so no setting has a regret of 0: "own optimum" is a surface fitted to the grid itself.

Fitted on the 6 cheapest of the 17 by compute, judged on the other 11 and on the 24:

- joint quadratic: ln L over 15 monomials in (ln η, ln B, ln N, ln D), on runs near the best of their grid;
- surface: without a prior (Step Law's exponents were fitted on the held-out grids too), and with each rule's exponents.

``left out``: each of the 6 is left out in turn and judged; this chose the constants of the surface's noise.
``inside``: the share of the grids' own optima in the surface's 90 % intervals; the intervals are for the true optima,
so the share is a little lower than theirs.

    python benchmarks/step_law.py [--output benchmarks/results/step_law.json]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.interpolate import LinearNDInterpolator

from allometry.files import write_json
from allometry.laws import Observations
from allometry.planning import rules
from allometry.planning.batch_and_rate.fit_surface import surface
from allometry.planning.batch_and_rate.surface import Surface

SHARED = Path(os.environ.get("ALLOMETRY_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
TABLE = SHARED / "scalebench" / "lr_bsz_scaling_law__train.parquet"
RESULTS = Path(__file__).parent / "results" / "step_law.json"
FITTED = 6

BatchAndRate = Callable[[float, float], tuple[float, float]]


class Grid:
    """The runs of one size and number of tokens, and what a setting costs among them."""

    def __init__(self, runs: Observations) -> None:
        self.runs = runs
        self.point = float(runs.num_params[0]), float(runs.tokens[0])
        self.places = np.log(np.stack([runs.column("batch_tokens"), runs.column("lr")], axis=1))
        self.batches = len(np.unique(runs.column("batch_tokens")))
        self._between = LinearNDInterpolator(self.places, runs.loss)

    def linear(self, recipe: BatchAndRate) -> float:
        """Regret by interpolation; by the nearest run where a corner of the grid is missing."""
        place = np.clip(np.log(recipe(*self.point)), self.places.min(0), self.places.max(0))
        loss = float(self._between(place)[0])
        return self.nearest(recipe) if np.isnan(loss) else loss / self.runs.loss.min() - 1

    def nearest(self, recipe: BatchAndRate) -> float:
        """Regret of the nearest run."""
        distance = ((self.places - np.log(recipe(*self.point))) ** 2).sum(axis=1)
        return float(self.runs.loss[np.argmin(distance)] / self.runs.loss.min() - 1)


def read() -> tuple[list[Grid], list[Grid], Observations]:
    """The 17 grids and the 24, each from the cheapest to the dearest; and the whole table."""
    table = Observations.read(TABLE, columns={"sequence_length": 2048})
    points = sorted(set(zip(table.num_params, table.tokens, strict=True)), key=np.prod)
    grids = [Grid(table.where((table.num_params == n) & (table.tokens == d))) for n, d in points]
    return [g for g in grids if g.batches == 10], [g for g in grids if g.batches < 10], table


def joined(table: Observations, grids: list[Grid]) -> Observations:
    """The runs of these grids."""
    points = {grid.point for grid in grids}
    return table.where(np.array([point in points for point in zip(table.num_params, table.tokens, strict=True)]))


def published() -> dict[str, BatchAndRate]:
    """The rules that give both settings, Power Lines' batch with Step Law's rate, and one setting for all."""
    by = lambda name: lambda n, d: tuple(rules.rule(name).recommend(n, d))
    rules_by_name = {name: by(name) for name in ("step_law", "deepseek", "porian", "moonlight")}
    rules_by_name["power_lines batch, step_law rate"] = lambda n, d: (
        by("power_lines")(n, d)[0],
        by("step_law")(n, d)[1],
    )
    return rules_by_name | {"fixed 2^19 tokens, 1e-3": lambda n, d: (2.0**19, 1e-3)}


def quadratic(grids: list[Grid], keep: float) -> BatchAndRate:
    """Least squares of ln L in all monomials up to the second degree, runs within ``keep`` of their grid's best."""
    near = [(grid, grid.runs.loss < grid.runs.loss.min() * (1 + keep)) for grid in grids]
    rows = np.concatenate([np.insert(g.places, [2, 2], np.log(g.point), axis=1)[m] for g, m in near])
    losses = np.concatenate([np.log(g.runs.loss[m]) for g, m in near])
    centre = rows.mean(axis=0)
    first, second = np.triu_indices(4)
    moved = rows - centre
    regressors = np.column_stack([np.ones(len(moved)), moved, moved[:, first] * moved[:, second]])
    constants = np.linalg.lstsq(regressors, losses, rcond=None)[0]
    bend = np.zeros((4, 4))
    bend[first, second] = constants[5:]
    bend += bend.T

    def recipe(num_params: float, tokens: float) -> tuple[float, float]:
        size = np.log([num_params, tokens]) - centre[2:]
        place = -np.linalg.solve(bend[:2, :2], constants[1:3] + bend[:2, 2:] @ size)
        return tuple(np.exp(place + centre[:2]))

    return recipe


def own_optimum(grid: Grid) -> tuple[float, float]:
    """Batch and learning rate of the surface of one grid."""
    cell = surface(grid.runs).cells[0]
    return cell.batch_tokens, cell.lr


def inside(fitted_surface: Surface, grids: list[Grid], optima: dict[tuple, tuple]) -> float:
    """Share of the grids' own optima, in batch and in learning rate, in the 90 % intervals."""
    hits = []
    for grid in grids:
        best = fitted_surface.optimum(*grid.point)
        for interval, value in zip((best.batch_tokens, best.lr), optima[grid.point], strict=True):
            hits.append(interval.low <= value <= interval.high)
    return float(np.mean(hits))


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS)
    output = parser.parse_args().output
    grids, small, table = read()
    fitted, held_out = grids[:FITTED], grids[FITTED:]
    results: dict[str, dict[str, float]] = {}

    def judge(name: str, recipe: BatchAndRate, **more: float) -> None:
        mean = lambda part, how: 1000 * float(np.mean([getattr(grid, how)(recipe) for grid in part]))
        columns = {"all 17": (grids, "linear"), "held-out 11": (held_out, "linear")}
        columns |= {"held-out 11, nearest": (held_out, "nearest"), "small 24": (small, "linear")}
        results[name] = {column: round(mean(*where), 3) for column, where in columns.items()} | more
        print(f"{name:44}" + "".join(f"{value:22.2f}" for value in results[name].values()), flush=True)

    print(f"{'regret in ‰ of the best loss':44}{'all 17':>22}{'held-out 11':>22}{'… nearest run':>22}{'small 24':>22}")
    for name, recipe in published().items():
        judge(name, recipe)
    for keep in (0.005, 0.01, 0.02, 0.05, 10.0):
        judge(
            f"joint quadratic, within {keep:.1%}" if keep < 1 else "joint quadratic, all runs", quadratic(fitted, keep)
        )
    optima = {grid.point: own_optimum(grid) for grid in (*grids, *small)}
    for prior in (None, "power_lines", "deepseek", "step_law"):
        fitted_surface = surface(joined(table, fitted), prior=prior)
        left_out = [
            grid.linear(surface(joined(table, [g for g in fitted if g is not grid]), prior=prior).recipe)
            for grid in fitted
        ]
        more = {"left out": round(1000 * float(np.mean(left_out)), 3)}
        more |= {"inside": round(inside(fitted_surface, held_out, optima), 3)}
        judge(f"surface, {'no prior' if prior is None else 'prior ' + prior}", fitted_surface.recipe, **more)
    judge("surface of the cheapest grid, prior step_law", surface(fitted[0].runs).recipe)
    judge("surface of all 17 grids, no prior", surface(joined(table, grids), prior=None).recipe)
    judge("own optimum", lambda n, d: optima[n, d])
    print("the last two columns of surfaces: left out (‰), share inside 90 % intervals")
    print(surface(joined(table, fitted), prior=None).summary())
    write_json(output, {"regret in thousandths of the best loss": results})


if __name__ == "__main__":
    main()
