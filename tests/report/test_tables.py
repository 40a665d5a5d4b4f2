"""Tables of the page and the terminal: rows are the records; and the outcome as lines."""

from dataclasses import replace

import pytest

from allometry.planning import Outcome
from allometry.report import law_tables, outcome_lines, tables


def shown(table):
    return "\n".join("  ".join(cell.text for cell in row.cells) for row in table.rows)


def test_the_table_of_runs(study):
    text = shown(tables.runs(study.records()))
    for record in study.records():
        assert record.id in text
        assert record.loss is None or f"{record.loss:.4f}" in text
    assert "diverged: loss not finite at step 120" in text


def test_rungs_come_first_then_target_then_sweep(study):
    kinds = [row.cells[1].text for row in tables.runs(study.records()).rows]
    assert list(dict.fromkeys(kinds)) == ["ladder", "target", "sweep"]
    assert len(kinds) == len(study.records())


def test_the_tables_of_laws_and_plan(contents):
    text = shown(law_tables.law_weights(contents.predictor))
    assert all(name in text for name in contents.predictor.weights)
    text = shown(law_tables.plan(contents.plan))
    assert f"[{contents.plan.low:.4f}, {contents.plan.high:.4f}]" in text
    text = shown(law_tables.law_weights(contents.predictor.fits["power"]))
    assert "L = k·N^α·D^β" in text


def test_cost_adds_up(study):
    records = study.records()
    rows = tables.costs(records).rows
    assert sum(int(row.cells[1].text) for row in rows) == len(records)
    assert sum(float(row.cells[2].exact) for row in rows) == pytest.approx(sum(r.flops_spent for r in records))
    assert sum(float(row.cells[3].text.rstrip("%")) for row in rows) == pytest.approx(100, abs=0.2)


@pytest.mark.parametrize(("actual", "side", "where"), [(1.0, "above", "inside"), (1.2, "below", "OUTSIDE")])
def test_outcome_lines(actual, side, where):
    outcome = Outcome(
        run="a",
        predicted=1.05,
        low=0.95,
        high=1.15,
        level=0.9,
        actual=actual,
        bits_per_byte=None,
        relative_error=1.05 / actual - 1,
        inside=where == "inside",
        compute_ratio=8.04,
        ladder_share=0.25,
        seconds=60.0,
    )
    lines = outcome_lines(outcome)
    text = "\n".join(lines)
    assert f"{abs(1.05 / actual - 1):.2%}: the prediction was {side}" in text
    assert f"{where} the interval" in text
    assert "8.04 times" in text
    assert "25.0%" in text
    none = outcome_lines(replace(outcome, compute_ratio=None, ladder_share=0.0, low=None, high=None, inside=None))
    assert "no interval" in none[0]
    assert not any("times" in line for line in none)
