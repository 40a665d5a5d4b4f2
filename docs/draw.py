"""Draw the pictures of laws.md and plans.md from public tables of runs, into docs/pictures.

The tables lie in the folder that ALLOMETRY_SHARED (or ../shared beside the repository) names. About a minute:

    python docs/draw.py [NAME ...]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from allometry import laws, planning
from allometry.report.pictures import law_data, law_drawn
from allometry.report.pictures.canvas import Drawing

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("ALLOMETRY_SHARED", HERE.parents[1] / "shared")) / "data"


def chinchilla() -> laws.Observations:
    """The 240 points that Besiroglu et al. fitted: all but the five highest losses."""
    runs = laws.Observations.read(DATA / "chinchilla/svg_extracted_data.csv")
    return runs.where(np.sort(np.argsort(runs.loss)[:240]))


def porian() -> laws.Observations:
    """RefinedWeb with tuned hyperparameters, the last step of Porian et al."""
    where = {"dataset": "rw", "hparams": "tuned", "warmup": "short", "decay": "const", "param_count": "standard"}
    columns = {"num_params": "n", "tokens": "t", "flops": "flops", "loss": "loss"}
    return laws.Observations.read(DATA / "porian/isoflop_points.csv", columns=columns, where=where)


def step_law() -> laws.Observations:
    """The Step Law grids: learning rate and batch (sequences of 2048 tokens) at 17 sizes and token counts."""
    columns = {"sequence_length": 2048}
    return laws.Observations.read(DATA / "scalebench/lr_bsz_scaling_law__train.parquet", columns=columns)


def fit() -> Drawing:
    runs = chinchilla()
    return law_drawn.frontier(law_data.frontier(laws.forecast(runs), runs))


def residuals() -> Drawing:
    runs = chinchilla()
    return law_drawn.residuals(law_data.residuals(laws.fit("chinchilla", runs), runs))


def isoflop() -> Drawing:
    return law_drawn.isoflop(laws.isoflop(porian()))


def basin() -> Drawing:
    return law_drawn.basin(law_data.basin(laws.forecast(chinchilla()), 1e23))


def surface() -> Drawing:
    """Fitted on the six cheapest grids; shown at the largest, which it did not see."""
    runs = step_law()
    budgets = np.unique(np.round(6 * runs.num_params * runs.tokens, -12))
    cheap = runs.where(6 * runs.num_params * runs.tokens <= 1.001 * budgets[5])
    largest = int(np.argmax(runs.num_params * runs.tokens))
    found = planning.surface(cheap)
    return law_drawn.surface(
        law_data.surface_slice(found, runs, float(runs.num_params[largest]), float(runs.tokens[largest]))
    )


def calibration() -> Drawing:
    """Every public table that counts, at both splits of the benchmark."""
    sys.path.insert(0, str(HERE.parent / "benchmarks"))
    from forecast_tables import COUNTED, public_tables, splits

    def tested() -> Iterator[tuple[str, laws.Forecast, laws.Observations]]:
        for name, runs in public_tables():
            for split, fitted, held_out in splits(runs) if name.startswith(COUNTED) else ():
                yield f"{name}, {split}", laws.forecast(fitted), held_out

    return law_drawn.calibration(law_data.calibration(tested()))


PICTURES: dict[str, Callable[[], str]] = {
    each.__name__: each for each in (fit, residuals, isoflop, basin, surface, calibration)
}


def main() -> None:
    """Draw all, or those named."""
    for name in sys.argv[1:] or PICTURES:
        path = HERE / "pictures" / f"{name}.svg"
        path.parent.mkdir(exist_ok=True)
        path.write_text(PICTURES[name]().as_file(), encoding="utf-8")
        print(path.relative_to(HERE.parent), f"{path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
