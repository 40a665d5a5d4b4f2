"""Figures that papers print of the public tables, from the tables; or why they do not come out.

Elsewhere: Chinchilla's optimum and standard errors in test_laws_fit.py, the multi-power law's errors in
test_laws_multi_power.py, Porian's exponents with IsoFLOPs, regrets on the Step Law grids with the response surface.
"""

from __future__ import annotations

import csv

import numpy as np
import pytest

from allometry.laws import LAWS, Observations, fit
from helpers.ladders import shared


def rows(name):
    """A CSV file as dicts."""
    with shared(name).open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def rmsle(predicted, observed):
    """Root mean square of ln(predicted/observed)."""
    return float(np.sqrt(np.mean(np.log(np.asarray(predicted) / np.asarray(observed)) ** 2)))


SMALL = ("d=96_l=8_h=4", "d=512_l=8_h=4", "d=576_l=24_h=8", "d=1024_l=24_h=8")


@pytest.mark.parametrize(
    ("corpus", "model", "multiplier", "error"),
    [
        ("rpj", "open_lm_1b", 640, 0.7103e-2),
        ("rpj", "open_lm_7b", 20, 0.7320e-2),
        # Not printed as a success: the same five runs on C4 miss its 6.9B model by 4.3 %.
        ("c4_original", "open_lm_7b", 20, 4.295e-2),
    ],
)
def test_gadre_predicts_over_trained_models(corpus, model, multiplier, error):
    """Relative error of the loss on C4's validation set (arXiv 2403.08540, figure 1), from 300 times less compute.

    Their law L(C, M) = E + (a·M^η + b·M^(−η))·C^(−η) is Chinchilla's with one exponent. It is fitted by least squares
    of the loss to five runs: four sizes at 20 tokens a parameter, and the smallest at 320. ``mult`` counts in 20s.
    """
    runs = [
        {"num_params": float(row["N"]), "tokens": float(row["D"]), "loss": float(row["loss_c4_val"]), **row}
        for row in rows("gadre/models.csv")
        if row["train"] == corpus
    ]
    chosen = [
        run
        for run in runs
        if (run["model"] in SMALL and float(run["mult"]) == 1)
        or (run["model"] == SMALL[0] and float(run["mult"]) == 16)
    ]
    keys = ("num_params", "tokens", "loss")
    fitted = fit(
        "chinchilla_tied",
        Observations.from_records([{key: run[key] for key in keys} for run in chosen]),
        objective="squares",
        bootstrap=0,
    )
    (target,) = (run for run in runs if run["model"] == model and 20 * float(run["mult"]) == multiplier)
    predicted = fitted.predict(target["num_params"], target["tokens"]).value
    assert len(chosen) == 5
    assert abs(predicted / target["loss"] - 1) == pytest.approx(error, abs=5e-7 if corpus == "rpj" else 5e-6)


def test_olmo_reruns_give_the_noise_floor():
    """Five runs at one Chinchilla were made twice: 0.015 to 0.03 % of the loss apart (on the Pile to 0.07 %)."""
    losses = {row["run"]: float(row["c4_loss"]) for row in rows("olmo_ladder/final_losses.csv")}
    apart = [abs(np.log(loss / losses[name + "-rerun"])) for name, loss in losses.items() if name + "-rerun" in losses]
    assert len(apart) == 5
    assert round(min(apart), 5) == 0.00015
    assert round(max(apart), 4) == 0.0003


@pytest.fixture(scope="module")
def batches():
    """The runs of Li and Maddison 2026 by split: sizes, batches and steps, sequences of 128 tokens.

    Trained on: 64 runs up to 5.9e16 FLOPs. Nine more were taken out by the authors (tiny batches). Held out: 64 runs up
    to a thousand times the compute, half of them at one size and one token count with batches from 48 to 393 216.
    """
    splits = {"train": [], "test": []}
    for row in rows("nqs/dataset.csv"):
        if row["filtered"] != "True":
            batch, steps = 128 * float(row["B"]), float(row["K"])
            run = {"num_params": float(row["N"]), "tokens": batch * steps, "batch_tokens": batch, "steps": steps}
            splits[row["split"]].append({**run, "loss": float(row["loss"])})
    assert [len(split) for split in splits.values()] == [64, 64]
    return {name: Observations.from_records(split) for name, split in splits.items()}


def test_chinchilla_misses_runs_of_many_batches_by_a_sixth(batches):
    """Held-out RMSLE of Chinchilla's form, least squares of the log loss (arXiv 2605.09154): 17.5 %.

    Their own 4.80 % is of the noisy quadratic system, which has no closed form and is no law here. Batch and steps as
    terms of their own come within a few tenths of a percent of it.
    """
    test = batches["test"]
    chinchilla = fit("chinchilla", batches["train"], "log_squares", bootstrap=0)
    assert rmsle(chinchilla.predict(test.num_params, test.tokens).value, test.loss) == pytest.approx(0.175, abs=5e-4)
    terms = fit("three_term", batches["train"], "log_squares", bootstrap=0)
    predicted = terms.predict(test.num_params, test.tokens, batch_tokens=test.column("batch_tokens")).value
    assert rmsle(predicted, test.loss) < 0.055


def test_data_constrained_constants_do_not_reproduce():
    """Muennighoff et al. 2023 print E 1.87, A 521, B 1488, α = β = 0.353, R_N 5.31, R_D 15.4 (arXiv 2305.16264).

    On the 161 rows of the collection they are 11.6 % off (rms of the log loss; 8 % too low in the middle), on the 21
    held out 6.9 %. The best constants of their form leave 6.1 % and 7.2 %: several hundred epochs on 0.1 to 0.4
    billion tokens raise the loss again (up to 5.8), and no loss that falls with every repetition can follow.
    A repetition comes out as worth more than printed: R_D 27.6, where e^(−1) of a token's worth is lost.
    """
    from pyarrow import parquet

    published = {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "R_N": 5.31, "R_D": 15.39}
    law = LAWS["data_constrained"]
    names = {"num_params": "params", "tokens": "tokens", "unique_tokens": "unique_tokens", "loss": "loss"}
    splits = {}
    for split, count in (("train", 161), ("test", 21)):
        table = parquet.read_table(shared(f"scalebench/data_constrained_scaling_law__{split}.parquet"))
        columns = {name: table.column(column).to_pylist() for name, column in names.items()}
        assert table.num_rows == count
        splits[split] = Observations.from_records(
            [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        )
    fitted = fit("data_constrained", splits["train"], "log_squares", bootstrap=0)

    def off(values, observations):
        inputs = (observations.column(name) for name in law.inputs)
        return rmsle(law.loss(values, *inputs), observations.loss)

    assert off(published, splits["train"]) == pytest.approx(0.1161, abs=5e-4)
    assert off(published, splits["test"]) == pytest.approx(0.0688, abs=5e-4)
    assert off(fitted.values, splits["train"]) == pytest.approx(0.0609, abs=5e-4)
    assert off(fitted.values, splits["test"]) == pytest.approx(0.0724, abs=1e-3)
    assert fitted.values["R_D"] == pytest.approx(27.6, rel=0.02)
