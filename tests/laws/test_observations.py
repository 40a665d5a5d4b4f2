"""Reading tables: what is taken, derived, left out and refused, and in which words."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.errors import UserError
from allometry.laws import Observations
from allometry.laws.field_names import COUNTED, KNOWN
from helpers.ladders import shared

HEADER = "N,D,loss\n"
ROWS = "1e6,2e7,3.0\n2e6,2e7,2.8\n2e6,4e7,2.6\n"


def write(tmp_path, text, name="runs.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "header",
    [
        "N,D,loss",
        "params,tokens,val_loss",
        "num_params,TOKENS,final_loss",
        "Model Size,training tokens,Loss",
        "n_params,n_tokens,lm_loss",
    ],
)
def test_usual_names_are_known(tmp_path, header):
    observations = Observations.read(write(tmp_path, header + "\n" + ROWS))
    assert observations.num_params.tolist() == [1e6, 2e6, 2e6]
    assert observations.tokens.tolist() == [2e7, 2e7, 4e7]
    assert observations.loss.tolist() == [3.0, 2.8, 2.6]
    assert observations.flops.tolist() == [1.2e14, 2.4e14, 4.8e14]
    assert any("flops derived as C = 6·N·D in 3 rows" in note for note in observations.notes)


OTHERS = ("label", "status", "group", "accumulation", "processes", "active_params", "nodes", "tokens_per_param")
NAMES = [(name, word) for name, words in KNOWN.items() for word in words if name not in OTHERS]


VALUES = {"lr": [0.1, 0.2], "trunk_noise": [0.01, 0.02], "flops": [1e15, 2e15], "loss": [3.5, 4.5]}


@given(st.sampled_from(NAMES), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_names_are_known_however_they_are_written(named, random):
    """Any case, and any punctuation between the letters."""
    name, word = named
    written = "".join(random.choice([a.upper(), a]) + random.choice(["", "", "_", " ", "-", "."]) for a in word).strip()
    others = {"num_params": "how many", "tokens": "how long", "loss": "how good"}
    others.pop(name, None)
    values = VALUES.get(name, [3e5, 4e5])
    observations = Observations.read({other: [1e6, 2e6] for other in others.values()} | {written: values}, others)
    in_tokens = name == "batch_sequences" and "batch_tokens" in observations.extra
    assert observations.column("batch_tokens" if in_tokens else name).tolist() == values


def test_tokens_are_derived_from_compute_and_it_is_said(tmp_path):
    observations = Observations.read(write(tmp_path, "Model Size,Training FLOP,loss\n1e6,1.2e14,3\n2e6,2.4e14,2.5\n"))
    assert observations.tokens.tolist() == [2e7, 2e7]
    assert "tokens derived as D = C/(6·N) in 2 rows" in observations.notes


def test_non_embedding_count_goes_before_total_and_both_are_named(tmp_path):
    observations = Observations.read(write(tmp_path, "N,N_noembed,D,loss\n2e6,1e6,2e7,3\n"))
    assert observations.num_params.tolist() == [1e6]
    assert any("'N_noembed'; 'N' not used" in note for note in observations.notes)


@pytest.mark.parametrize(
    ("header", "asked", "taken", "counted"),
    [
        ("N,N_noembed", None, 3e6, "non_embedding"),
        ("N,N_noembed", "total", 2e6, "total"),
        ("params,total_params", None, 2e6, "unknown"),
        ("params,total_params", "total", 3e6, "total"),
        ("num_params_total,num_params_matmul", "matmul", 3e6, "matmul"),
        ("params,size_kb", "non_embedding", 2e6, "non_embedding"),
    ],
)
def test_the_count_chooses_among_columns_of_parameters_and_is_kept(tmp_path, header, asked, taken, counted):
    path = write(tmp_path, f"{header},D,loss\n2e6,3e6,2e7,3\n")
    observations = Observations.read(path, counted=asked)
    assert observations.num_params.tolist() == [taken]
    assert observations.counted == counted
    assert any("exponents depend on it" in note for note in observations.notes) == (counted == "unknown")
    assert observations.where([0]).counted == counted


def test_a_count_that_the_table_does_not_have_is_refused(tmp_path):
    path = write(tmp_path, "N_noembed,D,loss\n2e6,2e7,3\n")
    with pytest.raises(UserError, match="'N_noembed' counts non_embedding parameters: choose another counted="):
        Observations.read(path, counted="total")
    with pytest.raises(UserError, match="counts non_embedding parameters, not total"):
        Observations.read(path, columns={"num_params": "N_noembed"}, counted="total")
    with pytest.raises(UserError, match="parameters are counted non_embedding, matmul, total"):
        Observations.read(path, counted="passive")


@pytest.mark.parametrize(
    ("header", "row", "columns", "expected", "words"),
    [
        ("N,bs_seqs,steps,loss", "1e6,8,100,3", {"sequence_length": 2048}, (16384.0, 1638400.0), "D = batch·steps"),
        ("N,bsz,seq_len,steps,loss", "1e6,8,64,100,3", {}, (512.0, 51200.0), "sequences · sequence length"),
        ("N,bsz,D,steps,loss", "1e6,512,51200,100,3", {}, (512.0, 51200.0), "taken to be in tokens"),
        ("N,bsz,D,steps,loss", "1e6,8,51200,100,3", {}, (512.0, 51200.0), "taken to be in sequences"),
        ("N,batch,D,loss", "1e6,524288,1e9,3", {}, (524288.0, 1e9), "taken to be in tokens"),
        ("N,bsz,D,loss", "1e6,256,1e9,3", {"batch_tokens": "bsz"}, (256.0, 1e9), "steps derived as D/batch"),
        ("N,D,steps,loss", "1e6,1e9,1000,3", {}, (1e6, 1e9), "batch_tokens derived as D/steps"),
    ],
)
def test_batches_become_tokens_where_the_table_says_enough(tmp_path, header, row, columns, expected, words):
    observations = Observations.read(write(tmp_path, f"{header}\n{row}\n"), columns=columns)
    assert (observations.column("batch_tokens")[0], observations.tokens[0]) == expected
    assert observations.column("steps")[0] == expected[1] / expected[0]
    assert any(words in note for note in observations.notes)


@pytest.mark.parametrize("name", ["bsz", "bs_seqs"])
def test_a_batch_in_sequences_of_unknown_length_stays_one(tmp_path, name):
    observations = Observations.read(write(tmp_path, f"N,D,{name},loss\n1e6,2e9,256,3\n"))
    assert observations.column("batch_sequences").tolist() == [256.0]
    assert "batch_tokens" not in observations.extra
    assert any("columns={'sequence_length': ...}" in note for note in observations.notes)
    with pytest.raises(UserError, match=r"no column batch_tokens; there are num_params, .*batch_sequences"):
        observations.column("batch_tokens")


def test_sizes_are_derived_from_compute_and_tokens(tmp_path):
    observations = Observations.read(write(tmp_path, "tokens,flops,loss\n2e7,1.2e14,3\n"))
    assert observations.num_params.tolist() == [1e6]
    assert "num_params derived as N = C/(6·D) in 1 row" in observations.notes


def test_compute_in_another_unit_is_not_taken(tmp_path):
    observations = Observations.read(write(tmp_path, "N,D,C,loss\n1e6,2e7,0.00012,3\n2e6,2e7,0.00024,2.9\n"))
    assert observations.flops.tolist() == [1.2e14, 2.4e14]
    assert any("1e-18 of 6·N·D, so not in FLOPs" in note for note in observations.notes)


def test_other_numbers_keep_their_names_and_words_do_not_come_along(tmp_path):
    path = write(tmp_path, "N,D,loss,n_experts,corpus,peak_lr\n1e6,2e7,3,8,c4,0.01\n2e6,2e7,2.9,,c4,0.02\n")
    observations = Observations.read(path)
    assert set(observations.extra) == {"n_experts", "lr"}
    assert np.array_equal(observations.column("n_experts"), [8.0, np.nan], equal_nan=True)
    assert observations.where([1]).column("lr").tolist() == [0.02]


def test_rows_are_chosen_by_their_cells(tmp_path):
    kinds = [(n, c, s) for n in (1, 2, 3) for c in ("c4", "rw") for s in (0, 1)]
    rows = "".join(f"{n}e6,2e7,{3 - n / 10 + (c == 'rw') + s / 100},{c},{s}\n" for n, c, s in kinds)
    path = write(tmp_path, f"N,D,loss,corpus,seed\n{rows}")
    assert len(Observations.read(path, where={"corpus": "rw", "seed": "1"})) == 3
    assert len(Observations.read(path, where={"corpus": ["rw", "c4"], "seed": 1.0})) == 6
    everything = Observations.read(path)
    assert any("corpus differs between rows (c4, rw); where={'corpus': 'c4'}" in note for note in everything.notes)
    assert len(set(everything.column("group"))) == 2
    # Rows of different corpora are no repeats of each other, those of different seeds are.
    assert {len(labels) for labels in everything.noise.sets} == {2}
    with pytest.raises(UserError, match="no row has corpus = pile; corpus holds c4, rw"):
        Observations.read(path, where={"corpus": "pile"})
    with pytest.raises(UserError, match="no column 'dataset' to select by; found: N, D"):
        Observations.read(path, where={"dataset": "c4"})


def test_words_that_name_the_sizes_tell_no_kinds_of_rows_apart(tmp_path):
    rows = "".join(f"{n}e6,{d}e7,3,size {n},{'early' if d == 2 else 'late'}\n" for n in (1, 2, 3) for d in (2, 3, 4))
    notes = Observations.read(write(tmp_path, f"N,D,loss,model,when\n{rows}")).notes
    assert [note for note in notes if "differs" in note] == [
        "when differs between rows (early, late); where={'when': 'early'} takes one kind"
    ]


def test_words_in_a_column_with_a_usual_name_are_not_taken_for_numbers(tmp_path):
    observations = Observations.read(write(tmp_path, "param_count,n,t,warmup,loss\nkaplan,1e6,2e7,long,3\n"))
    assert observations.num_params.tolist() == [1e6]
    assert "warmup" not in observations.extra


def test_a_constant_and_no_column_may_be_said(tmp_path):
    path = write(tmp_path, "N,D,lr,loss\n1e6,2e7,300,3\n")
    observations = Observations.read(path)
    assert "lr" not in observations.extra
    assert "lr not taken from 'lr': its median is 300, far above any learning rate" in observations.notes
    observations = Observations.read(path, columns={"lr": None, "batch_tokens": "512", "seed": 3})
    assert set(observations.extra) == {"batch_tokens", "seed", "steps"}
    assert observations.column("batch_tokens").tolist() == [512.0]


def test_bits_are_named_in_the_notes(tmp_path):
    observations = Observations.read(write(tmp_path, "N,D,bits_per_byte\n1e6,2e7,1.1\n"))
    assert any("in bits by its name: so are predictions" in note for note in observations.notes)


def test_json_lines_array_and_semicolons_read_alike(tmp_path):
    rows = [{"N": 1e6, "D": 2e7, "loss": 3.0}, {"N": 2e6, "D": 2e7, "loss": 2.8}]
    paths = [
        write(tmp_path, "\n".join(map(json.dumps, rows)), "a.jsonl"),
        write(tmp_path, json.dumps(rows), "b.json"),
        write(tmp_path, "N;D;loss\n1e6;2e7;3\n2e6;2e7;2.8\n", "c.csv"),
    ]
    for path in paths:
        assert Observations.read(path).loss.tolist() == [3.0, 2.8]


def test_diverged_and_lossless_runs_are_left_out_with_a_note():
    rows = [
        {"num_params": 1e6, "tokens": 2e7, "loss": 3.0, "label": "a", "status": "finished"},
        {"num_params": 1e6, "tokens": 2e7, "loss": 9.0, "label": "b", "status": "diverged"},
        {"num_params": 1e6, "tokens": 2e7, "loss": math.nan, "label": "c"},
        {"num_params": 1e6, "tokens": 2e7, "loss": math.inf, "label": "d"},
    ]
    observations = Observations.from_records(rows)
    assert observations.labels == ("a",)
    assert "left out 1 of 4 runs, status diverged: b" in observations.notes
    assert "left out 2 of 4 runs, loss missing or not finite: c, d" in observations.notes


number = st.floats(min_value=1e-12, max_value=1e25)
words = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text
)


@given(
    st.lists(st.tuples(number, number, number, number, words, st.floats(allow_nan=True)), min_size=1, max_size=6),
    st.sampled_from([*COUNTED, "unknown"]),
    st.sampled_from(["lr", "n_experts", "val_loss", "params", "Loss", "D"]),
)
@settings(max_examples=60, deadline=None)
def test_csv_round_trip_is_exact(tmp_path_factory, rows, counted, other):
    """Whatever the other columns are called: in a file that ``write_csv`` wrote, names are fields."""
    names = ("num_params", "tokens", "loss", "loss_se", "label", other)
    records = [dict(zip(names, row, strict=True)) for row in rows]
    for record in records:
        record["num_params"] += 100
        record["tokens"] += 1000
        record[other] = min(abs(record[other]), 1.0) + 1e-9
    before = Observations.from_records(records, counted=counted)
    path = tmp_path_factory.mktemp("trip") / "runs.csv"
    before.write_csv(path)
    after = Observations.read(path)
    for name in ("num_params", "tokens", "loss", "flops", "loss_se", *before.extra):
        assert np.array_equal(before.column(name), after.column(name), equal_nan=True), name
    assert set(after.extra) == set(before.extra)
    assert after.labels == before.labels
    assert after.counted == counted


def test_counts_may_be_written_with_suffixes(tmp_path):
    observations = Observations.read(write(tmp_path, 'N,D,loss\n70M,1.5B,3\n1.5B,"20,000,000",2\n'))
    assert observations.num_params.tolist() == [7e7, 1.5e9]
    assert observations.tokens.tolist() == [1.5e9, 2e7]


def test_a_study_folder_is_read_through_its_rows(tmp_path, monkeypatch):
    from allometry.runs.study import Study

    class Opened:
        def rows(self):
            counts = {"num_params": 1e6, "counted": "non_embedding", "lr": 0.1}
            return [
                counts | {"tokens": 2e7, "flops": 2e14, "loss": 3.0, "loss_se": 0.01, "label": "r"},
                counts | {"tokens": 4e7, "flops": 4e14, "loss": None, "label": "s", "status": "diverged"},
            ]

    monkeypatch.setattr(Study, "open", lambda path: Opened())
    (tmp_path / "study.json").write_text("{}")
    observations = Observations.read(tmp_path)
    assert observations.labels == ("r",)
    assert observations.flops.tolist() == [2e14]
    assert observations.loss_se.tolist() == [0.01]
    assert observations.notes == ("left out 1 of 2 runs, status diverged: s",)


def test_where_keeps_rows_together():
    observations = Observations.from_records(
        [{"num_params": 10**i, "tokens": 10 ** (i + 1), "loss": 5.0 - i, "label": str(i)} for i in range(4)]
    ).where(np.array([False, True, False, True]))
    assert observations.labels == ("1", "3")
    assert observations.loss.tolist() == [4.0, 2.0]
    assert len(observations) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        ("N,D,loss\n", ["no runs below it"]),
        (
            "x,y,z\n1,2,3\n",
            ["no column for num_params, loss, tokens (or flops)", "found: x, y, z", "needed: num_params"],
        ),
        ("N,D,loss_a,loss_b\n1e6,2e7,3,4\n", ["several columns could be the loss (loss_a, loss_b)", "columns={'loss'"]),
        (HEADER + "1e6,2e7,3\n1e6,many,3\n", ["row 2", "tokens is 'many'", "not a number"]),
        (HEADER + "1x,2e7,3\n", ["row 1: num_params", "'1x' is not a number", "1.5B"]),
        (HEADER + "1e6,2e7,3\n2e6,2e7,three\n", ["row 2: loss is 'three', not a number; correct the cell"]),
        (HEADER + "-5,2e7,3\n", ["row 1", "num_params is -5", "above zero"]),
        (HEADER + "1e6,0,3\n", ["row 1", "tokens is 0", "above zero"]),
        (HEADER + "1e6,2e7,-1\n", ["row 1", "loss is -1", "above zero"]),
        (HEADER + "1e6,,3\n", ["row 1", "tokens is missing"]),
        (HEADER + "1e6,2e7,nan\n2e6,2e7,inf\n", ["no run has a finite loss", "row 1, row 2", "nothing to fit"]),
        (HEADER + "1e9,20,3\n2e9,40,2.9\n", ["tokens has a median of 30", "billions"]),
        ("N,C,loss\n1e9,12,3\n", ["tokens worked out from column 'C'", "is that column in FLOPs"]),
        ("N,D,Loss,loss\n1e6,2e7,3,4\n", ["columns 'Loss', 'loss' could all be loss", "say which"]),
        ("N,D,loss\n124,2.5e9,3.4\n355,2.5e9,3.1\n", ["tokens a parameter: is num_params (column 'N'", "'N*1e6'"]),
        ("N,D,loss\n124,2500,3.4\n355,2500,3.1\n", ["in millions?", "'N*1e6'"]),
        ("N,D,loss\n124e6,2500,3.4\n355e6,2500,3.1\n", ["is tokens (column 'D'", "'D*1e6'"]),
        ("N,D,loss,loss\n1e6,2e7,3,4\n", ["more than one column is named 'loss'", "rename or remove one"]),
        ("N,D,ppl\n1e6,2e7,30\n", ["no column for loss", "natural logarithm of a perplexity"]),
        ("N,bsz,steps,loss\n1e6,256,1000,3\n", ["no column for tokens", "columns={'sequence_length': 2048}"]),
        ("name,N,D,loss\na,1e6,2e7,3\nb,1e6,many,3\nc,1e6,few,3\n", ["row 2: tokens is 'many'", "(and 1 more row)"]),
        ("name,N,D,loss\na,1e6,2e7,3\nb,inf,2e7,3\n", ["row 2 (b): num_params is inf", "finite number above zero"]),
        (HEADER + "1e6,2e7\n", ["line 2: 2 cells where the header (line 1) has 3", "correct the line"]),
        (HEADER + "0.1,2e9,3\n", ["num_params has a median of 0.1", "millions"]),
    ],
)
def test_wrong_tables_are_refused_in_one_line(tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        Observations.read(write(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "column", "note"),
    [
        ("N,D,steps,loss\n1e6,2e7,-5,3\n", "steps", "steps left out in 1 row: 'steps' is -5 there"),
        ("N,D,lr,loss\n1e6,2e7,0,3\n", "lr", "'lr' is 0 there, the last rate of a run and not its peak"),
        ("N,D,lr,loss\n1e6,2e7,auto,3\n1e6,2e7,x,3\n", "lr", ""),
    ],
)
def test_optional_columns_never_refuse_a_table_unless_they_were_named(tmp_path, text, column, note):
    observations = Observations.read(write(tmp_path, text))
    assert column not in observations.extra
    assert any(note in one for one in observations.notes)
    with pytest.raises(UserError, match=r"above zero|not a number"):
        Observations.read(write(tmp_path, text), columns={column: column})


@pytest.mark.parametrize(
    "text", ["{}", "[]", "null", "3", "true", '"x"', "[{}, {}]", '{"runs": []}', '{"a": {"b": null}}']
)
def test_json_that_holds_no_runs_is_refused_by_what_it_holds(tmp_path, text):
    with pytest.raises(UserError) as error:
        Observations.read(write(tmp_path, text, "runs.json"))
    assert f"runs.json holds no runs, only {text};" in str(error.value)


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Observations.read(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80PAR1")
    with pytest.raises(UserError, match="is not text"):
        Observations.read(tmp_path / "binary.csv")
    with pytest.raises(UserError, match="not JSON"):
        Observations.read(write(tmp_path, "{broken", "x.jsonl"))
    with pytest.raises(UserError, match="entry 1 is 1; every entry must be an object"):
        Observations.read(write(tmp_path, "1\n2\n", "y.jsonl"))
    with pytest.raises(UserError, match="no field 'height'"):
        Observations.read(write(tmp_path, HEADER + ROWS), columns={"height": "N"})
    with pytest.raises(UserError, match="no column 'x' for loss; found: N, D, loss"):
        Observations.read(write(tmp_path, HEADER + ROWS), columns={"loss": "x"})
    with pytest.raises(UserError, match="the table is empty"):
        Observations.from_records([])
    with pytest.raises(UserError, match="records lack loss, tokens; found: num_params"):
        Observations.from_records([{"num_params": 1.0}])


def test_columns_chooses_among_several_losses(tmp_path):
    path = write(tmp_path, "N,D,loss_a,loss_b\n1e6,2e7,3,4\n")
    assert Observations.read(path, columns={"loss": "loss_b"}).loss.tolist() == [4.0]


def test_public_tables_are_read_by_their_paths():
    chinchilla = Observations.read(shared("chinchilla/svg_extracted_data.csv"))
    assert len(chinchilla) == 245
    assert "tokens derived as D = C/(6·N) in 245 rows" in chinchilla.notes
    gadre = Observations.read(shared("gadre/models.csv"), columns={"loss": "loss_c4_val"}, where={"train": "rpj"})
    assert (len(gadre), gadre.counted, gadre.num_params[0]) == (35, "non_embedding", 359973888.0)
    assert {"lr", "seed", "warmup", "weight_decay", "batch_sequences", "mult"} <= set(gadre.extra)
    total = Observations.read(shared("gadre/models.csv"), columns={"loss": "loss_c4_val"}, counted="total")
    assert total.num_params[0] == 411616256.0
    where = {"dataset": "rw", "hparams": "base", "warmup": "long", "decay": "kaplan"}
    porian = Observations.read(shared("porian/isoflop_points.csv"), where=where)
    assert porian.num_params[0] == 331776.0
    assert porian.tokens[0] == 6279337062.757201
    nqs = Observations.read(
        shared("nqs/dataset.csv"), columns={"batch_sequences": "B", "steps": "K", "sequence_length": 128}
    )
    assert nqs.tokens[0] == 134 * 564 * 128
    # The table's own compute is in units of 1e9 and rounded.
    assert nqs.flops[0] == pytest.approx(14700000e9, rel=0.02)


def test_published_parquet_files_are_read_by_their_paths():
    grids = Observations.read(shared("scalebench/lr_bsz_scaling_law__train.parquet"), columns={"sequence_length": 2048})
    assert (len(grids), grids.counted) == (2702, "non_embedding")
    assert grids.column("batch_tokens")[0] == 736 * 2048
    farseer = Observations.read(shared("scalebench/farseer_scaling_law__train.parquet"))
    assert (len(farseer), farseer.counted) == (404, "unknown")
    repeated = Observations.read(shared("scalebench/data_constrained_scaling_law__train.parquet"))
    assert (len(repeated), repeated.column("unique_tokens")[0]) == (161, 4e9)


def test_the_summary_says_what_was_read_found_and_left_out(tmp_path):
    path = write(tmp_path, "name,N,D,loss,seed\na,1e6,2e7,3,0\nb,1e6,2e7,3.03,1\nc,2e6,4e7,2.6,0\nd,2e6,4e7,nan,1\n")
    lines = Observations.read(path, counted="total").summary().splitlines()
    assert lines[0].startswith("3 runs, parameters counted: total; N 1M to 2M, D 20M to 40M, C 1.20e+14 to 4.80e+14")
    # Two runs whose logarithms differ by x scatter by x/√2.
    assert (
        lines[1] == f"noise floor {math.log(1.01) / math.sqrt(2):.3%} of the loss, from 2 runs that repeat each other"
    )
    assert "note: left out 1 of 4 runs, loss missing or not finite: d" in lines


def test_a_known_column_without_any_number_is_said_to_be_unused(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,loss,run_noise,lr\n1e7,1e9,3.0,1%,auto\n2e7,2e9,2.8,1%,auto\n")
    read = Observations.read(path)
    assert not read.extra
    assert "run_noise: 'run_noise' holds no number (it has '1%'), so it is not used" in read.notes
    with pytest.raises(UserError, match="run_noise is '1%', not a number"):
        Observations.read(path, columns={"run_noise": "run_noise"})
