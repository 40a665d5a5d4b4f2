"""Reading tables: what is taken, derived, left out and refused, and in which words."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from allometry.errors import UserError
from allometry.laws import Observations, fit

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


def test_tokens_are_derived_from_compute_and_it_is_said(tmp_path):
    observations = Observations.read(write(tmp_path, "Model Size,Training FLOP,loss\n1e6,1.2e14,3\n2e6,2.4e14,2.5\n"))
    assert observations.tokens.tolist() == [2e7, 2e7]
    assert "tokens derived as D = C/(6·N) in 2 rows" in observations.notes


def test_non_embedding_count_goes_before_total_and_both_are_named(tmp_path):
    observations = Observations.read(write(tmp_path, "N,N_noembed,D,loss\n2e6,1e6,2e7,3\n"))
    assert observations.num_params.tolist() == [1e6]
    assert any("'N_noembed'; 'N' not used" in note for note in observations.notes)


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


def test_csv_round_trip_is_exact(tmp_path):
    generator = np.random.default_rng(0)
    rows = [
        {"num_params": n, "tokens": d, "loss": loss, "loss_se": 0.01, "label": f"run {i}"}
        for i, (n, d, loss) in enumerate(
            zip(*10 ** generator.uniform(6, 9, (2, 5)), generator.uniform(2, 4, 5), strict=True)
        )
    ]
    before = Observations.from_records(rows)
    before.write_csv(tmp_path / "runs.csv")
    after = Observations.read(tmp_path / "runs.csv")
    for name in ("num_params", "tokens", "loss", "flops", "loss_se"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
    assert after.labels == before.labels


def test_counts_may_be_written_with_suffixes(tmp_path):
    observations = Observations.read(write(tmp_path, 'N,D,loss\n70M,1.5B,3\n1.5B,"20,000,000",2\n'))
    assert observations.num_params.tolist() == [7e7, 1.5e9]
    assert observations.tokens.tolist() == [1.5e9, 2e7]


def test_a_study_folder_is_read_through_its_rows(tmp_path, monkeypatch):
    from allometry.runs.store import Study

    class Opened:
        def rows(self):
            return [
                {
                    "num_params": 1e6,
                    "tokens": 2e7,
                    "flops": 2e14,
                    "loss": 3.0,
                    "loss_se": 0.01,
                    "label": "r",
                    "lr": 0.1,
                },
                {"num_params": 1e6, "tokens": 4e7, "flops": 4e14, "loss": None, "label": "s", "status": "diverged"},
            ]

    monkeypatch.setattr(Study, "open", lambda path: Opened())
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
            ["no column for num_params, loss, tokens (or flops)", "found: x, y, z", "wanted: num_params"],
        ),
        ("N,D,loss_a,loss_b\n1e6,2e7,3,4\n", ["several columns could be the loss (loss_a, loss_b)", "columns={'loss'"]),
        (HEADER + "1e6,2e7,3\n1e6,many,3\n", ["row 2", "tokens is 'many'", "not a number"]),
        (HEADER + "1x,2e7,3\n", ["row 1: num_params", "'1x' is not a number", "1.5B"]),
        (HEADER + "1e6,2e7,3\n2e6,2e7,three\n", ["row 2: loss is 'three', not a number; mend the cell"]),
        (HEADER + "-5,2e7,3\n", ["row 1", "num_params is -5", "above zero"]),
        (HEADER + "1e6,0,3\n", ["row 1", "tokens is 0", "above zero"]),
        (HEADER + "1e6,2e7,-1\n", ["row 1", "loss is -1", "above zero"]),
        (HEADER + "1e6,,3\n", ["row 1", "tokens is missing"]),
        (HEADER + "1e6,2e7,nan\n2e6,2e7,inf\n", ["no run has a finite loss", "row 1, row 2", "nothing to fit"]),
        (HEADER + "1e9,20,3\n2e9,40,2.9\n", ["tokens has a median of 30", "billions"]),
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


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Observations.read(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80PAR1")
    with pytest.raises(UserError, match="is not text"):
        Observations.read(tmp_path / "binary.csv")
    with pytest.raises(UserError, match="not JSON"):
        Observations.read(write(tmp_path, "{broken", "x.jsonl"))
    with pytest.raises(UserError, match="every line must be an object"):
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


@pytest.mark.parametrize(
    ("sizes", "tokens", "words"),
    [
        (
            [1e6] * 6,
            [1e7, 2e7, 4e7, 8e7, 1.6e8, 3.2e8],
            ["all 6 runs have one size (1M parameters)", "add a run at 4M"],
        ),
        ([1e6, 2e6, 4e6, 8e6], [2e7] * 4, ["all 4 runs have one token count (20M)", "80M tokens"]),
        ([1e6, 2e6, 4e6, 8e6], [2e7, 4e7, 8e7, 1.6e8], ["one ratio of 20 tokens a parameter", "add a run at"]),
        ([1e6, 1e6, 4e6], [1e7, 2e7, 1e7], ["3 runs are too few for law power with 3 constants", "up to 4"]),
    ],
)
def test_designs_that_support_no_law_are_refused_with_the_run_to_add(sizes, tokens, words):
    observations = Observations.from_records(
        [
            {"num_params": n, "tokens": d, "loss": 3 - 0.01 * i}
            for i, (n, d) in enumerate(zip(sizes, tokens, strict=True))
        ]
    )
    with pytest.raises(UserError) as caught:
        fit("power", observations)
    for word in words:
        assert word in str(caught.value)
