"""Draw the pictures of the pages into docs/pictures, from public tables of runs and from benchmarks/results.

The tables lie in the folder that ALLOMETRY_SHARED (or ../shared beside the repository) names; `calibration` and
`tournament` need the committed results only. About a minute:

    python docs/draw.py [NAME ...]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import result_pictures
import scoreboard

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


def tournament() -> str:
    """Every study of the tournament: what was predicted, and what came out."""
    return result_pictures.tournament(scoreboard.studies())


def calibration() -> str:
    """How often the 90 % intervals held on tables of known truths (benchmarks/results/calibration.json)."""
    return result_pictures.calibration(scoreboard.known_truths(scoreboard.read("calibration.json")))


OF_TABLES: dict[str, Callable[[], Drawing]] = {
    each.__name__: each for each in (fit, residuals, isoflop, basin, surface)
}
OF_RESULTS: dict[str, Callable[[], str]] = {each.__name__: each for each in (calibration, tournament)}


def picture(name: str) -> str:
    """The SVG of that name."""
    return OF_RESULTS[name]() if name in OF_RESULTS else OF_TABLES[name]().as_file()


def main() -> None:
    """Draw all, or those named."""
    for name in sys.argv[1:] or (*OF_TABLES, *OF_RESULTS):
        path = HERE / "pictures" / f"{name}.svg"
        path.parent.mkdir(exist_ok=True)
        path.write_text(picture(name), encoding="utf-8")
        print(path.relative_to(HERE.parent), f"{path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
