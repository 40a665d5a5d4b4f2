"""Variants of the shared cases, by kind: other names, units, separators, locales, shapes of JSON, words for counts.

Each table holds the same twelve runs; it is read as those runs, or refused in one line that names what is unclear.
"""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest

from allometry.errors import UserError
from allometry.laws import Curves, Observations

GRID = list(product((2e7, 6e7, 2e8, 6e8), (3e8, 1e9, 3e9)))
BATCH = 256 * 1024


def loss(n: float, d: float) -> float:
    return round(1.7 + 406 / n**0.34 + 411 / d**0.28, 4)


def read(tmp_path, text, columns=None, name: str = "runs.csv") -> Observations:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return Observations.read(tmp_path / name, columns)


def table(header: str, row, separator: str = ",") -> str:
    return "\n".join([header, *(separator.join(map(str, row(n, d))) for n, d in GRID)]) + "\n"


def is_grid(runs: Observations) -> bool:
    found = np.array([*zip(runs.num_params, runs.tokens, strict=True)])
    same = found.shape == (len(GRID), 2) and np.allclose(found, GRID, rtol=3e-3)
    return bool(same and np.allclose(runs.loss, [loss(n, d) for n, d in GRID], atol=2e-3))


def european(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".translate(str.maketrans(",.", ".,"))


@pytest.mark.parametrize(
    ("header", "size", "length"),
    [
        ("Mparams,Btokens,loss", 1e6, 1e9),
        ("million_params,billion_tokens,loss", 1e6, 1e9),
        ("M_params,B_tokens,loss", 1e6, 1e9),
        ("#params (millions),#tokens (billions),val loss", 1e6, 1e9),
        ("Model size [M],Data [B tokens],Loss", 1e6, 1e9),
        ("params_k,tokens_m,loss", 1e3, 1e6),
        ("params (B),tokens (T),loss", 1e9, 1e12),
    ],
)
def test_units_before_and_behind_a_name(tmp_path, header, size, length):
    assert is_grid(read(tmp_path, table(header, lambda n, d: (n / size, d / length, loss(n, d)))))


@pytest.mark.parametrize(
    "header",
    [
        "parameters (N),tokens (D),loss (L)",
        "N (params),D (tokens),L (nats)",
        '"Parameters, N","Tokens, D","Loss, L"',
        "N=params,D=tokens,loss",
        "Model Parameters (non-embedding),Training Tokens,Final Validation Loss",
        "Params w/o embeddings,Tokens,Loss",
        "nonembed_params,n_train_tokens,val loss",
        "trainable_params,token_count,valid_loss",
        "size_params,size_tokens,loss/val",
        "Parameter count,Token count,Val. loss",
        "N,D,nll",
        "N,D,cross_entropy",
        "N,D,val_ce",
        "count_params,tokens_so_far,validation cross entropy",
        "num_weights,numTrainToks,valid_nll",
    ],
)
def test_names_that_say_it_in_other_words(tmp_path, header):
    assert is_grid(read(tmp_path, table(header, lambda n, d: (n, d, loss(n, d)))))


@pytest.mark.parametrize("name", ["tpp", "tokens_per_param", "tokens/param", "D/N"])
def test_tokens_follow_from_their_number_a_parameter(tmp_path, name):
    assert is_grid(read(tmp_path, table(f"params,{name},loss", lambda n, d: (n, d / n, loss(n, d)))))


@pytest.mark.parametrize(("name", "unit"), [("GFLOPs", 1e9), ("EFLOPs", 1e18), ("compute (PFLOP)", 1e15)])
def test_compute_in_its_units(tmp_path, name, unit):
    assert is_grid(read(tmp_path, table(f"N,{name},loss", lambda n, d: (n, 6 * n * d / unit, loss(n, d)))))


def test_tokens_that_cannot_be_counts_are_asked_for(tmp_path):
    text = table("params,tokens,loss", lambda n, d: (n / 1e3, d / 1e6, loss(n, d)))
    with pytest.raises(UserError, match=r"in thousands or millions\? Say its unit, .*'tokens\*1e6'"):
        read(tmp_path, text)
    assert is_grid(read(tmp_path, text, {"num_params": "params*1e3", "tokens": "tokens*1e6"}))
    runs = read(tmp_path, table("params,tokens,loss", lambda n, d: (n / 1e3, d, loss(n, d))))
    assert any("are sizes in thousands" in one.text for one in runs.findings)


def test_a_batch_in_millions_of_tokens(tmp_path):
    runs = read(tmp_path, table("N,D,batch (M tokens),loss", lambda n, d: (n, d, 0.5, loss(n, d))))
    assert set(runs.column("batch_tokens")) == {5e5}


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ("per_device_batch_size,accumulation,gpus", (8, 4, 8)),
        ("local_batch_size,grad_accum,dp_degree", (8, 4, 8)),
        ("micro_batch_size,num_microbatches,dp_size", (8, 4, 8)),
        ("batch_size_per_gpu,accumulate_grad_batches,devices,num_nodes", (8, 4, 4, 2)),
        ("per_device_train_batch_size,gradient_accumulation_steps,num_nodes,gpus_per_node", (8, 4, 2, 4)),
        ("per_device_train_batch_size,gradient_accumulation_steps,world_size,nnodes", (8, 4, 8, 2)),
        ("micro_batch_size,grad_accum,world_size,tensor_model_parallel_size,pp_size", (8, 4, 32, 2, 2)),
        ("batch_size,gradient_accumulation_steps", (256, "")),
        ("accum_iter,num_gpu,batch_size", (4, 8, 8)),
        ("update_freq,distributed_world_size,batch_size", (4, 8, 8)),
        ("grad_accumulation_steps,num_processes,train_batch_size_per_device", (4, 8, 8)),
        ("ga_steps,n_gpus,batch_per_gpu", (4, 8, 8)),
    ],
)
@pytest.mark.parametrize("length", ["max_length", "context"])
def test_machines_pieces_and_shared_devices_in_a_batch(tmp_path, names, values, length):
    row = lambda n, d: (n, *values, 1024, round(d / BATCH), loss(n, d))
    assert is_grid(read(tmp_path, table(f"n_params,{names},{length},max_steps,val_loss", row)))


def test_devices_of_one_machine_or_of_all_are_asked_for(tmp_path):
    names = "n_params,per_device_batch_size,num_gpus,num_nodes,seq_len,max_steps,val_loss"
    text = table(names, lambda n, d: (n, 16, 4, 4, 1024, round(d / BATCH), loss(n, d)))
    with pytest.raises(UserError, match="'num_gpus' may be the devices of one machine or of all of 'num_nodes'"):
        read(tmp_path, text)
    assert is_grid(read(tmp_path, text, {"processes": 16}))


def test_one_machine_does_not_say_how_many_devices_it_has(tmp_path):
    names = "n_params,per_device_batch_size,num_nodes,seq_len,max_steps,val_loss"
    text = table(names, lambda n, d: (n, 32, 1, 1024, round(d / BATCH), loss(n, d)))
    with pytest.raises(UserError, match="the batch of one device, and the table does not say how many there were"):
        read(tmp_path, text)
    assert is_grid(read(tmp_path, text, {"processes": 8}))


@pytest.mark.parametrize(
    "header",
    [
        "params_total,params_activated,tokens,loss",
        "n_params,n_params_active,D,loss",
        "params,active,tokens,loss",
        "Total (M),Active params (M),tokens,loss",
    ],
)
def test_active_parameters_in_other_words(tmp_path, header):
    unit = 1e6 if "(M)" in header else 1
    runs = read(tmp_path, table(header, lambda n, d: (8 * n / unit, n / unit, d, loss(n, d))))
    assert (runs.counted, is_grid(runs)) == ("active", True)


def test_experts_without_active_parameters_are_warned_of(tmp_path):
    text = table("total_params,num_experts,top_k,tokens,loss", lambda n, d: (8 * n, 8, 1, d, loss(n, d)))
    assert any("'num_experts', 'top_k': models with experts" in note for note in read(tmp_path, text).notes)
    dense = table("params,num_experts,tokens,loss", lambda n, d: (n, 1, d, loss(n, d)))
    assert not any("experts, whose compute" in note for note in read(tmp_path, dense).notes)


@pytest.mark.parametrize("blank", ["", "0", "—", "TBD", "#DIV/0!", "?"])
def test_blanks_of_every_kind_are_passed_over(tmp_path, blank):
    assert is_grid(read(tmp_path, table("params,N,D,flops,loss", lambda n, d: (blank, n, d, blank, loss(n, d)))))


@pytest.mark.parametrize("state", ["1", "cosine", "✓", "True"])
def test_a_state_that_says_nothing_leaves_no_run_out(tmp_path, state):
    assert is_grid(read(tmp_path, table("N,D,state,loss", lambda n, d: (n, d, state, loss(n, d)))))


@pytest.mark.parametrize("word", ["diverged", "OOM", "still running", "NaN", "n.a."])
def test_a_word_in_place_of_a_loss_leaves_out_its_run(tmp_path, word):
    runs = read(tmp_path, table("N,D,loss", lambda n, d: (n, d, word if (n, d) == GRID[-1] else loss(n, d))))
    assert len(runs) == 11
    with pytest.raises(UserError, match="row 12: loss is 'good', not a number"):
        read(tmp_path, table("N,D,loss", lambda n, d: (n, d, "good" if (n, d) == GRID[-1] else loss(n, d))))


@pytest.mark.parametrize("form", ["{} ± 0.01", "{} +/- 0.01", "{} (0.01)"])
def test_a_loss_with_its_error_in_one_cell(tmp_path, form):
    runs = read(tmp_path, table("N,D,loss", lambda n, d: (n, d, form.format(loss(n, d)))))
    assert is_grid(runs)
    assert set(runs.loss_se) == {0.01}


@pytest.mark.parametrize("group", ["'", "’", " ", "\u00a0", "\u202f"])
def test_groups_of_digits_of_switzerland_and_france(tmp_path, group):
    many = lambda x: f"{x:,.0f}".replace(",", group)
    row = lambda n, d: (many(n), many(d), f"{loss(n, d):.3f}".replace(".", ","))
    assert is_grid(read(tmp_path, table("N;D;loss", row, ";")))


def test_other_encodings_and_groups(tmp_path):
    text = table("N\tD\tloss", lambda n, d: (int(n), int(d), loss(n, d)), "\t")
    assert is_grid(read(tmp_path, text.encode("utf-16"), name="runs.txt"))
    assert is_grid(read(tmp_path, table("N,D,loss", lambda n, d: (f"~{n / 1e6:g}M", f"≈{d / 1e9:g}B", loss(n, d)))))
    lakh = table("N,D,loss", lambda n, d: ('"2,00,00,000"' if n == 2e7 else n, d, loss(n, d)))
    assert is_grid(read(tmp_path, lakh))
    row = lambda n, d: (f"{n / 1e6:.1f} Mio".replace(".", ","), european(d, 0), european(loss(n, d), 3))
    assert is_grid(read(tmp_path, table("N;D;loss", row, ";")))


@pytest.mark.parametrize(
    "label",
    [
        "avg.",
        "Std dev",
        "± std",
        "Average of runs",
        "mean (all)",
        "Ø",
        "Grand Total",
        "n=12",
        "Durchschnitt",
        "std. dev.",
    ],
)
@pytest.mark.parametrize("column", ["run", "experiment", ""])
def test_summaries_are_known_by_any_word_in_any_column(tmp_path, label, column):
    text = table(f"{column},N,D,loss", lambda n, d: (f"r{n:g}-{d:g}", n, d, loss(n, d)))
    assert is_grid(read(tmp_path, f"{text}{label},2.2e8,1.43e9,3.1\n"))


def test_summaries_without_a_column_of_words(tmp_path):
    text = table("N,D,loss", lambda n, d: (n, d, loss(n, d)))
    assert is_grid(read(tmp_path, f"{text}mean,1.4e9,3.4\n"))
    means = np.mean([(n, d, loss(n, d)) for n, d in GRID], axis=0)
    assert is_grid(read(tmp_path, text + ",".join(map(repr, map(float, means))) + "\n"))
    index = table("Unnamed: 0,N,D,loss", lambda n, d: (GRID.index((n, d)), n, d, loss(n, d)))
    assert is_grid(read(tmp_path, f"{index}mean,2.2e8,1.43e9,3.4\nstd,1e8,1e9,0.6\n"))


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("params,tokens,iter,max_iters,val_loss", lambda n, d, k: (n, d, 1000 * k, 6000, loss(n, d))),
        ("model,checkpoint,params,tokens,loss", lambda n, d, k: (f"m{n:g}", f"step{k}000", n, d, loss(n, d))),
        ("model,revision,params,tokens,loss", lambda n, d, k: ("pythia", f"step{k}000", n, d, loss(n, d))),
        ("name,params,tokens,progress,loss", lambda n, d, k: (f"m{n:g}-{k}", n, d, round(100 * k / 6, 1), loss(n, d))),
        ("params,tokens_seen,total_tokens,loss", lambda n, d, k: (n, d, 3e9, loss(n, d))),
        ("params,tokens,epoch,num_epochs,loss", lambda n, d, k: (n, d, k, 6, loss(n, d))),
        ("run,params,tokens,loss", lambda n, d, k: (f"m{n:g}/step_{k}000", n, d, loss(n, d))),
    ],
)
def test_points_along_runs_are_told_however_they_are_named(tmp_path, header, row):
    points = [(n, 5e8 * k, k) for n in (2e7, 6e7, 2e8, 6e8) for k in range(1, 7)]
    text = "\n".join([header, *(",".join(map(str, row(*point))) for point in points)])
    runs = read(tmp_path, text)
    found = {one.kind: one for one in runs.findings}
    assert len(found["checkpoints"].rows) == 20
    assert len(set(runs.tokens)) == 6


def test_more_shapes_of_json(tmp_path):
    rows = [{"N": n, "D": d, "loss": loss(n, d)} for n, d in GRID]
    named = lambda key, value: {"key": key, "value": value}
    shapes = {
        "two keys deep": {"ladder": {"points": rows}},
        "by name under data": {"meta": {"author": "x"}, "data": {f"r{i}": row for i, row in enumerate(rows)}},
        "kinds": {"gpt": rows[:6], "llama": rows[6:]},
        "three deep": [
            {"config": {"model": {"n_params": n}}, "eval": {"loss": loss(n, d)}, "tokens": d} for n, d in GRID
        ],
        "kinds by name": {
            "gpt": {f"r{i}": row for i, row in enumerate(rows[:6])},
            "llama": {f"r{i}": row for i, row in enumerate(rows[6:])},
        },
        "lists of one": [{key: [value] for key, value in row.items()} for row in rows],
        "mlflow": [
            {"params": [named("n_params", str(n))], "metrics": [named("val_loss", loss(n, d)), named("tokens", d)]}
            for n, d in GRID
        ],
        "as text": [
            {"config": json.dumps({"n_params": n}), "summary": repr({"D": d, "loss": loss(n, d)})} for n, d in GRID
        ],
    }
    for name, value in shapes.items():
        assert is_grid(read(tmp_path, json.dumps(value), name="runs.json")), name
    printed = "\n".join(json.dumps(row, indent=1) for row in rows)
    assert is_grid(read(tmp_path, printed, name="runs.jsonl"))
    with pytest.raises(UserError, match="not read, because neither a number nor a word stands there: loss"):
        read(tmp_path, json.dumps([row | {"loss": [3.0, row["loss"]]} for row in rows]), name="runs.json")


def test_mappings_in_the_cells_of_a_table(tmp_path):
    """As W&B's documentation saves the runs of a project."""
    lines = [",name,config,summary"]
    for place, (n, d) in enumerate(GRID):
        config, summary = {"n_params": n, "model": {"width": 64}}, {"val/loss": loss(n, d), "tokens": d}
        lines.append(f'{place},run{place},"{config}","{summary}"')
    assert is_grid(read(tmp_path, "\n".join(lines)))


def test_tables_inside_pages_and_boxes(tmp_path):
    rows = "\n".join(f"| {n:g} | {d:g} | {loss(n, d)}* |" for n, d in GRID)
    page = f"# Results\n\nOf the ladder, in nats:\n\n| N | D | loss |\n|---|---|---|\n{rows}\n\n* one seed\n"
    runs = read(tmp_path, page, name="runs.md")
    assert is_grid(runs)
    assert any("3 lines of text around the table not read" in note for note in runs.notes)
    with pytest.raises(UserError, match="holds 2 tables"):
        read(tmp_path, page + page, name="runs.md")
    rows = "\n".join(f"│ {n} │ {d} │ {loss(n, d)} │" for n, d in GRID)
    box = f"┌──┬──┬──┐\n│ N │ D │ loss │\n├──┼──┼──┤\n{rows}\n└──┴──┴──┘\n"
    assert is_grid(read(tmp_path, box, name="runs.txt"))
    assert is_grid(read(tmp_path, '"sep=;"\n' + table("N;D;loss", lambda n, d: (n, d, loss(n, d)), ";")))


def test_columns_that_nobody_needs_may_repeat(tmp_path):
    assert is_grid(read(tmp_path, table("N,D,loss,x,x", lambda n, d: (n, d, loss(n, d), 1, 2))))


STEPS = range(100, 2100, 100)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "long.csv",
            ["run,tag,step,value", *(f"a,{t},{s},{v}" for s in STEPS for t, v in (("train/loss", 9 / s), ("lr", 1)))],
        ),
        ("chart.csv", ['tokens,"r1 - loss"', *(f"{1000 * s},{9 / s}" for s in STEPS)]),
        ("metrics.csv", ["step,train_loss_step,val_loss", *(f"{s},{9 / s},\n{s},,{10 / s}" for s in STEPS)]),
        ("train.log", [f"step {s}: train loss {9 / s:.6f}, val loss {10 / s:.6f}" for s in STEPS]),
        ("iters.log", [f"iter {s}: loss {9 / s:.6f}, lr 0.001, time 2.0ms" for s in STEPS]),
    ],
)
def test_curves_in_other_forms(tmp_path, name, lines):
    (tmp_path / name).write_text("\n".join(lines))
    curves = Curves.read(tmp_path / name)
    assert (len(curves.names), len(curves)) == (1, 20)
    assert np.allclose(curves.loss, [9 / s for s in STEPS], atol=1e-6)
