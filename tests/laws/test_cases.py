"""Tables as people really keep them: each kind of fault that public reports name is read right, or refused in a line.

The inputs of ``cases/`` in the shared data, and variants of each kind made here.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from allometry.errors import UserError
from allometry.laws import Curves, Observations
from helpers.ladders import SHARED

SIZES, TOKENS = (2e7, 6e7, 2e8), (3e8, 1e9, 3e9)
GRID = list(product(SIZES, TOKENS))


def loss(n: float, d: float) -> float:
    return round(1.7 + 406 / n**0.34 + 411 / d**0.28, 4)


def case(name: str) -> Path:
    path = SHARED / "cases" / name
    if not path.is_file():
        pytest.skip(f"no shared case at {path}; set ALLOMETRY_SHARED to its folder")
    return path


def table(tmp_path, header: str, row, name: str = "runs.csv", separator: str = ",", before: str = "") -> Path:
    """A file with a row for every (N, D) of the grid."""
    rows = [separator.join(map(str, row(n, d))) for n, d in GRID]
    (tmp_path / name).write_text(before + "\n".join([header, *rows]) + "\n", encoding="utf-8")
    return tmp_path / name


def is_grid(runs: Observations) -> bool:
    found = np.array([*zip(runs.num_params, runs.tokens, strict=True)])
    return np.allclose(found, GRID, rtol=2e-3) and np.allclose(runs.loss, [loss(n, d) for n, d in GRID], atol=1e-3)


def said(runs: Observations, words: str) -> bool:
    return any(words in note for note in runs.notes)


@pytest.mark.parametrize(
    ("name", "columns", "sizes", "tokens", "runs"),
    [
        ("01_nanochat_results.csv", None, 49152000, 1729626112, 24),
        ("02_params_in_millions.csv", None, 124e6, 2.5e9, 12),
        ("02b_units_in_header.csv", None, 124e6, 2.5e9, 12),
        ("03_wandb_export.csv", None, 2e6, 1e8, 11),
        ("04_sheet_blocks.csv", {"loss": "C4 Eval Loss"}, 12047168, 209715200, 32),
        ("05_checkpoints_as_rows.csv", None, 17e6, 191489362, 60),
        ("06b_to_json_split.json", None, 1e7, 1e9, 12),
        ("06c_runs_key.json", None, 1e7, 1e9, 12),
        ("06d_by_run_name.json", None, 1e7, 1e9, 12),
        ("07_nested.jsonl", None, 2e5, 8192000, 36),
        ("11_mlflow.csv", None, 2e6, 1e8, 11),
        ("12_optuna.csv", None, 2e6, 1e8, 11),
        ("13_european.csv", None, 2e6, 1e8, 12),
        ("14_markdown.md.txt", None, 2e7, 8.333e8, 15),
        ("15a_comment.csv", None, 1e7, 1e9, 12),
        ("15b_sep.csv", None, 1e7, 1e9, 12),
        ("16_words.csv", None, 1e7, 1e9, 12),
        ("18_moe.csv", None, 2e7, 1e9, 12),
        ("22_wandb_runs.jsonl", None, 2e7, 3e8, 9),
        ("26_summary_row.csv", None, 2e7, 3e8, 12),
        ("28_batch_accum.csv", None, 2e7, 1144 * 8 * 4 * 8 * 1024, 12),
        ("30_lr_final_zero.csv", None, 2e7, 3e8, 16),
        ("33b_letters_dmodel.csv", None, 2e7, 3e8, 12),
    ],
)
def test_the_shared_cases_are_read_right(name, columns, sizes, tokens, runs):
    observations = Observations.read(case(name), columns)
    assert (observations.num_params[0], observations.tokens[0], len(observations)) == (sizes, tokens, runs)


@pytest.mark.parametrize(
    ("name", "names", "points", "lr"),
    [
        ("05_checkpoints_as_rows.csv", 3, 60, 0.002),
        ("08_trainer_state.json", 1, 20, 0.000475),
        ("09_metrics_lightning.csv", 1, 20, 0.0004755),
        ("10a_tensorboard.csv", 1, 20, np.nan),
        ("10b_wandb_chart.csv", 2, 40, np.nan),
    ],
)
def test_the_shared_curves_are_read_right(name, names, points, lr):
    curves = Curves.read(case(name))
    assert (len(curves.names), len(curves)) == (names, points)
    assert np.array_equal(curves.lr[:1], [lr], equal_nan=True)


# ---- units


@pytest.mark.parametrize(
    ("header", "size", "length"),
    [
        ("params (M),tokens (B),loss", 1e6, 1e9),
        ("N [M],D [B],loss", 1e6, 1e9),
        ("params_M,tokens_B,loss", 1e6, 1e9),
        ("params in millions,tokens in billions,loss", 1e6, 1e9),
        ("n_params_millions,num_tokens_billions,val_loss", 1e6, 1e9),
        ("Parameters (10^6),Tokens (1e9),Loss", 1e6, 1e9),
        ("Params [×10^6],Tokens/B,Loss", 1e6, 1e9),
        ("model size (M params),training tokens (million),loss", 1e6, 1e6),
        ("paramsM,tokensB,loss", 1e6, 1e9),
    ],
)
def test_units_in_names_count_also_where_the_user_names_the_column(tmp_path, header, size, length):
    path = table(tmp_path, header, lambda n, d: (n / size, d / length, loss(n, d)))
    assert is_grid(Observations.read(path))
    first, second, third = header.split(",")
    assert is_grid(Observations.read(path, {"num_params": first, "tokens": second, "loss": third}))


@pytest.mark.parametrize(("size", "length"), [(1e6, 1), (1e6, 1e6), (1e6, 1e9), (1, 1e9), (1e9, 1), (1e3, 1)])
def test_the_compute_of_a_table_tells_the_units_of_sizes_and_tokens(tmp_path, size, length):
    """With 10 % more than 6·N·D, as attention makes it."""
    path = table(tmp_path, "params,tokens,flops,loss", lambda n, d: (n / size, d / length, 6.6 * n * d, loss(n, d)))
    observations = Observations.read(path)
    assert is_grid(observations)
    assert said(observations, "rescaled")
    assert np.allclose(observations.flops, [6.6 * n * d for n, d in GRID])


def test_units_that_nothing_tells_are_asked_for_and_can_be_said(tmp_path):
    path = table(tmp_path, "params,tokens,loss", lambda n, d: (n / 1e6, d, loss(n, d)))
    with pytest.raises(UserError, match=r"in millions or billions\? Say its unit, .*'params\*1e6'"):
        Observations.read(path)
    assert is_grid(Observations.read(path, {"num_params": "params*1e6"}))


def test_compute_in_no_unit_that_fits_is_refused(tmp_path):
    path = table(tmp_path, "params,tokens,flops,loss", lambda n, d: (n, d, 6 * n * d * 1e6, loss(n, d)))
    with pytest.raises(UserError, match=r"1e\+06 times 6·N·D: sizes, tokens or compute are in other units"):
        Observations.read(path)


@pytest.mark.parametrize("times", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("wrong", ["half", "one"])
def test_compute_on_levels_of_its_own_is_a_finding(tmp_path, times, wrong):
    place = {grid: i for i, grid in enumerate(GRID)}
    bad = lambda n, d: place[n, d] in ((1, 4, 7) if wrong == "half" else (4,))
    row = lambda n, d: (n, d * (times if bad(n, d) else 1), 6 * n * d, loss(n, d))
    findings = {one.kind: one for one in Observations.read(table(tmp_path, "N,D,C,loss", row)).findings}
    assert len(findings["levels"].rows) == (3 if wrong == "half" else 1)


def test_exact_flops_that_fall_with_the_size_are_no_finding(tmp_path):
    row = lambda n, d: (n, d, 6 * (n + 50257 * n**0.35) * d, loss(n, d))
    assert "levels" not in {one.kind for one in Observations.read(table(tmp_path, "N,D,C,loss", row)).findings}


# ---- batches


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ("batch_size,gradient_accumulation_steps,world_size", (8, 4, 8)),
        ("per_device_train_batch_size,gradient_accumulation_steps,num_gpus", (8, 4, 8)),
        ("micro_batch_size,grad_accum,dp_size", (8, 4, 8)),
        ("train_batch_size,accumulate_grad_batches,num_devices", (32, 1, 8)),
        ("batch_size,grad_accum_steps", (64, 4)),
        ("bsz,ngpus", (32, 8)),
        ("global_batch_size,gradient_accumulation_steps,world_size", (256, 4, 8)),
        ("total_batch_size,grad_accum", (256, 4)),
    ],
)
def test_pieces_and_processes_count_in_a_batch(tmp_path, names, values):
    steps = lambda d: round(d / (256 * 1024))
    row = lambda n, d: (n, *values, 1024, steps(d), loss(n, d))
    observations = Observations.read(table(tmp_path, f"n_params,{names},block_size,max_steps,val_loss", row))
    assert is_grid(observations)
    assert set(observations.column("batch_tokens")) == {256 * 1024}


def test_in_nanogpt_accumulation_holds_the_processes(tmp_path):
    names = "n_params,batch_size,gradient_accumulation_steps,world_size,block_size,max_iters,val_loss"
    row = lambda n, d: (n, 32, 8, 8, 1024, round(d / (256 * 1024)), loss(n, d))
    observations = Observations.read(table(tmp_path, names, row))
    assert is_grid(observations)
    assert said(observations, "holds the processes already in nanoGPT")
    ambiguous = table(tmp_path, names.replace("max_iters", "max_steps"), row)
    with pytest.raises(UserError, match="may count the pieces of one process or of all of them"):
        Observations.read(ambiguous)
    assert is_grid(Observations.read(ambiguous, {"processes": 1}))


def test_the_batch_of_one_device_asks_for_their_number(tmp_path):
    row = lambda n, d: (n, 32, 1024, round(d / (256 * 1024)), loss(n, d))
    path = table(tmp_path, "n_params,per_device_train_batch_size,block_size,max_steps,val_loss", row)
    with pytest.raises(UserError, match=r"the batch of one device.*columns=\{'processes': 8\}"):
        Observations.read(path)
    assert is_grid(Observations.read(path, {"processes": 8}))


def test_tokens_and_steps_tell_what_a_batch_is_of(tmp_path):
    """Accumulation that holds the processes, and one that does not, where the table has its tokens."""
    for pieces, expected in ((8, 256), (1, 256)):
        row = lambda n, d, pieces=pieces: (n, d, 32, pieces, 8, 1024, d / (256 * 1024), loss(n, d))
        names = "N,D,batch_size,gradient_accumulation_steps,world_size,seq_len,steps,loss"
        observations = Observations.read(table(tmp_path, names, row))
        assert set(observations.column("batch_sequences")) == {expected}


# ---- names


def test_letters_of_a_shape_are_no_tokens_and_no_loss(tmp_path):
    row = lambda n, d: (12, 768, 12, n, d, loss(n, d))
    assert is_grid(Observations.read(table(tmp_path, "L,d,h,N,tokens_seen,val_loss", row)))
    with pytest.raises(UserError, match="no column for tokens"):
        Observations.read(table(tmp_path, "L,d,h,N,length,val_loss", row))
    with pytest.raises(UserError, match="no column for loss"):
        Observations.read(table(tmp_path, "L,d,h,N,tokens,quality", row))
    assert is_grid(Observations.read(table(tmp_path, "n,d,l", lambda n, d: (n, d, loss(n, d)))))


@pytest.mark.parametrize(
    ("name", "unit"), [("a", 1), ("A", 1), ("a (M)", 1e6), ("params.a", 1)], ids=["a", "A", "millions", "kept"]
)
def test_a_letter_that_may_be_anything_is_not_taken_for_active_parameters(tmp_path, name, unit):
    row = lambda n, d: (n, n / 2 / unit, d, loss(n, d))
    path = table(tmp_path, f"N,{name},D,loss", row)
    observations = Observations.read(path)
    assert is_grid(observations)
    assert np.allclose(observations.flops, 6 * observations.num_params * observations.tokens)
    assert said(observations, f"active_params: {name!r} not taken")
    chosen = Observations.read(path, columns={"active_params": name})
    assert np.allclose(chosen.flops, observations.flops / 2)


def test_a_capital_that_is_no_letter_of_the_field_must_have_its_magnitude(tmp_path):
    row = lambda n, d: (n, d / 1e9, loss(n, d))  # hours, say
    with pytest.raises(UserError, match="no column for tokens"):
        Observations.read(table(tmp_path, "N,T,loss", row))
    assert is_grid(Observations.read(table(tmp_path, "N,T,loss", lambda n, d: (n, d, loss(n, d)))))


def test_a_loss_that_never_varies_is_a_finding(tmp_path):
    observations = Observations.read(table(tmp_path, "N,D,loss", lambda n, d: (n, d, 3.0)))
    assert "constant" in {one.kind for one in observations.findings}


def test_a_column_that_is_blank_where_the_rows_count_is_passed_over(tmp_path):
    path = table(tmp_path, "Params,N,tokens,D,loss", lambda n, d: ("", n, "", d, loss(n, d)))
    observations = Observations.read(path)
    assert is_grid(observations)
    assert said(observations, "'Params' passed over")


def test_active_parameters_of_experts_go_first_and_cost_the_flops(tmp_path):
    row = lambda n, d: (n, 8 * n, d, loss(n, d))
    path = table(tmp_path, "n_active,total_params,tokens,loss", row)
    observations = Observations.read(path)
    assert (observations.counted, is_grid(observations)) == ("active", True)
    total = Observations.read(path, counted="total")
    assert (total.counted, total.num_params[0]) == ("total", 8 * SIZES[0])
    assert np.allclose(total.flops, observations.flops)
    assert said(total, "C = 6·N·D of the active parameters")


@pytest.mark.parametrize(
    "header",
    [
        "config/n_params,summary/tokens_seen,summary/val_loss",
        "params.num_params,params.tokens,metrics.val_loss",
        "params_n_params,params_tokens,user_attrs_val_loss",
        "model.num_params,train.tokens,eval/loss",
        "model/num_parameters,train/num_input_tokens_seen,eval/loss",
        "num_params,tokens_trained,validation_metrics/loss",
        "Parameter,Tokens,Loss",
    ],
)
def test_names_are_known_where_trackers_keep_them(tmp_path, header):
    assert is_grid(Observations.read(table(tmp_path, header, lambda n, d: (n, d, loss(n, d)))))


def test_the_training_loss_is_not_taken_for_the_held_out_one(tmp_path):
    row = lambda n, d: (n, d, loss(n, d) - 0.5, loss(n, d))
    assert is_grid(Observations.read(table(tmp_path, "N,D,train/loss,val/loss", row)))
    assert is_grid(Observations.read(table(tmp_path, "N,D,metrics.train_loss,metrics.eval_loss", row)))


# ---- rows that are no runs


def test_points_along_a_run_are_told_from_runs(tmp_path):
    """By the steps of the whole run beside the row's own, and by a name that many rows share."""
    rows = [f"m{n:g},{n},{d},{round(d / 1e6)},5000,{loss(n, d)}" for n in SIZES for d in np.linspace(1e9, 5e9, 5)]
    (tmp_path / "a.csv").write_text("run,N,D,step,total_steps,loss\n" + "\n".join(rows))
    observations = Observations.read(tmp_path / "a.csv")
    found = {one.kind: one for one in observations.findings}
    assert len(found["checkpoints"].rows) == 12
    assert set(observations.column("batch_tokens")) == {1e6}
    assert observations.noise is None
    rows = [f"m{n:g},{n},{d},{loss(n, d)}" for n in SIZES for d in np.linspace(1e9, 5e9, 5)]
    (tmp_path / "b.csv").write_text("run,N,D,loss\n" + "\n".join(rows))
    assert len({one.kind: one for one in Observations.read(tmp_path / "b.csv").findings}["checkpoints"].rows) == 12


def test_steps_of_the_whole_run_give_no_batch(tmp_path):
    rows = [f"{n},{d},8000,{loss(n, d)}" for n in SIZES for d in (191489362, 382978723, 574468085, 765957447)]
    (tmp_path / "a.csv").write_text("N,D,total_steps,loss\n" + "\n".join(rows))
    observations = Observations.read(tmp_path / "a.csv")
    assert "batch_tokens" not in observations.extra
    assert said(observations, "it is of the whole run and not of the row")


@pytest.mark.parametrize("word", ["mean", "Total", "AVERAGE", "std", "median:"])
def test_summaries_below_a_table_are_left_out(tmp_path, word):
    path = table(tmp_path, "run,N,D,loss", lambda n, d: (f"r{n:g}-{d:g}", n, d, loss(n, d)))
    path.write_text(path.read_text() + f"{word},1e8,1e9,3.1\n")
    observations = Observations.read(path)
    assert is_grid(observations)
    assert said(observations, f"a summary of the rows above: {word}")


# ---- forms of files


def test_json_in_every_usual_shape(tmp_path):
    rows = [{"N": n, "D": d, "loss": loss(n, d)} for n, d in GRID]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    shapes = {
        "columns": columns,
        "pandas": {key: {str(i): x for i, x in enumerate(values)} for key, values in columns.items()},
        "index": {str(i): row for i, row in enumerate(rows)},
        "split": {"columns": list(columns), "index": [0], "data": [list(row.values()) for row in rows]},
        "table": {"schema": {"fields": []}, "data": rows},
        "key": {"meta": {"author": "x"}, "results": rows},
        "any key": {"version": 2, "my ladder": rows},
        "by name": {"experiments": {f"run {i}": row for i, row in enumerate(rows)}},
        "lists": [list(columns), *[list(row.values()) for row in rows]],
        "nested": [{"config": {"n_params": n}, "summary": {"D": d, "val/loss": loss(n, d)}} for n, d in GRID],
        "wandb": [{"n_params": {"value": n, "desc": None}, "D": d, "loss": loss(n, d)} for n, d in GRID],
    }
    for name, value in shapes.items():
        (tmp_path / "runs.json").write_text(json.dumps(value, indent=2))
        assert is_grid(Observations.read(tmp_path / "runs.json")), name
    (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, shapes["nested"])))
    assert is_grid(Observations.read(tmp_path / "runs.jsonl"))
    (tmp_path / "runs.json").write_text('{"a": [1, 2], "b": {"c": [3]}}')
    with pytest.raises(UserError, match="an object with the keys a, b, none of which holds rows"):
        Observations.read(tmp_path / "runs.json")


def european(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".translate(str.maketrans(",.", ".,"))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_are_read_or_refused_never_guessed(tmp_path, separator):
    row = lambda n, d: (european(n, 0), european(d, 0), european(loss(n, d), 3))
    assert is_grid(Observations.read(table(tmp_path, separator.join(["N", "D", "loss"]), row, "a.csv", separator)))


def test_three_decimals_after_a_comma_are_not_thousands(tmp_path):
    row = lambda n, d: (f"{n / 1e6:.3f}M".replace(".", ","), f"{d:.0f}", f"{loss(n, d):.3f}".replace(".", ","))
    path = table(tmp_path, "N;D;loss", row, separator=";")
    assert is_grid(Observations.read(path))
    text = 'N,D,loss\n"2,125M",1e9,3\n'
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(UserError, match=r"'2,125M' may be 2.125M or 2125M"):
        Observations.read(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("N;D;loss\n1e6;1e9;3,25\n1e6;2e9;3.25\n")
    with pytest.raises(UserError, match=r"a decimal comma and .3\.25. a decimal point"):
        Observations.read(tmp_path / "c.csv")
    (tmp_path / "d.csv").write_text("N;D;loss\n1e6;1,000;3.250\n1e6;2,000;3.150\n")
    with pytest.raises(UserError, match=r"may be 1\.000 or 1000"):
        Observations.read(tmp_path / "d.csv")


@pytest.mark.parametrize(
    "text",
    [
        "# made by a script\n\n# losses in nats\n{header}\n{rows}",
        "sep=,\n{header}\n{rows}",
        "{header}\n# first block\n{rows}\n# the end",
        "# {header}\n{rows}",
        "// x\n{header}\n{rows}",
    ],
)
def test_comments_and_separator_lines_are_no_rows(tmp_path, text):
    rows = "\n".join(f"{n},{d},{loss(n, d)}" for n, d in GRID)
    (tmp_path / "runs.csv").write_text(text.format(header="N,D,loss", rows=rows))
    assert is_grid(Observations.read(tmp_path / "runs.csv"))


def test_tables_of_markdown_and_terminals(tmp_path):
    rows = "\n".join(f"| {n} | {d} | **{loss(n, d)}** |" for n, d in GRID)
    for rule in ("|---|:-:|--:|", "| --- | --- | --- |", "+------+------+-----+"):
        (tmp_path / "runs.md").write_text(f"| N | D | loss |\n{rule}\n{rows}\n")
        assert is_grid(Observations.read(tmp_path / "runs.md"))
    rows = "\n".join(f" {n} | {d} | {loss(n, d)}" for n, d in GRID)
    (tmp_path / "psql.txt").write_text(f"  N  |  D  | loss\n-----+-----+------\n{rows}\n(9 rows)\n")
    assert is_grid(Observations.read(tmp_path / "psql.txt"))
    rows = "\n".join(f"{n:.4e} {d:.4e} {loss(n, d):.6e}" for n, d in GRID)
    (tmp_path / "numpy.txt").write_text(f"# N D loss\n{rows}\n")
    assert is_grid(Observations.read(tmp_path / "numpy.txt"))


def test_the_line_that_is_blamed_is_the_wrong_one(tmp_path):
    (tmp_path / "a.csv").write_text("# comment\nN,D,loss\n1e6,2e7,3\n1e6,2e7\n")
    with pytest.raises(UserError, match=r"line 4: 2 cells where the header \(line 2\) has 3"):
        Observations.read(tmp_path / "a.csv")


@pytest.mark.parametrize("cells", [("10 M", "1 billion"), ("10 million", "1,000 M"), ("1e7 params", "1B tokens")])
def test_counts_in_words(tmp_path, cells):
    (tmp_path / "a.csv").write_text(f'N,D,loss\n"{cells[0]}","{cells[1].replace("1,000 M", "1000 M")}",3.1\n')
    observations = Observations.read(tmp_path / "a.csv")
    assert (observations.num_params[0], observations.tokens[0]) == (1e7, 1e9)


def test_rates_of_a_logger_that_writes_rows_of_their_own_are_merged(tmp_path):
    lines = ["step,train_loss,val_loss,lr-AdamW"]
    for step in range(10, 60, 10):
        lines += [f"{step},,,{1e-3 / step}", f"{step},{5 - step / 100},,", f"{step},,{5.1 - step / 100},"]
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    curves = Curves.read(tmp_path / "metrics.csv")
    assert curves.step.tolist() == [10, 20, 30, 40, 50]
    assert np.allclose(curves.lr, 1e-3 / curves.step)
    assert curves.loss[0] == 4.9


def test_a_chart_with_a_column_for_each_run_is_its_curves(tmp_path):
    text = '"Step","a - val/loss","a - val/loss__MIN","b - train/loss","b - train/loss__MAX"\n1,5,5,,\n2,4,4,4.5,4.5\n'
    (tmp_path / "chart.csv").write_text(text)
    assert Curves.read(tmp_path / "chart.csv").names == ("b",)


def test_a_header_below_the_rows_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("N,D,loss\n1e6,2e7,3\nN,D,loss\n2e6,2e7,2.9\n")
    with pytest.raises(UserError, match="line 3 repeats the header: two tables in one file"):
        Observations.read(tmp_path / "a.csv")
