"""What a command says: advice in the words of its caller."""

from __future__ import annotations

import subprocess
import sys

import pytest

from allometry import laws
from allometry.cli.terminal.output import as_options
from helpers.input_tables import few_forms, mixtures


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("e.g. columns={'loss': 'C4 Loss'}", "e.g. --column 'loss=C4 Loss'"),
        ("columns={'sequence_length': ...} gives", "--column sequence_length=… gives"),
        ("leave it out with columns={'lr': None}", "leave it out with --column lr=none"),
        ("columns={'num_params': 'params*1e6'}", "--column 'num_params=params*1e6'"),
        ("where={'corpus': 'c4'} takes one", "--where corpus=c4 takes one"),
        ("so give counted= (total)", "so give --counted (total)"),
        ("no advice, columns={broken}", "no advice, columns={broken}"),
    ],
)
def test_advice_is_given_in_options(said, shown):
    assert as_options(said) == shown


def test_a_refused_table_ends_in_one_line_and_status_2_again_and_again(tmp_path):
    """A thread of the reader that outlived the interpreter ended some of these with status 134."""
    path = tmp_path / "runs.csv"
    path.write_text("N,D,loss\n10 M,1 miles,4\n10 M,3 miles,4\n")
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-m", "allometry", "fit", str(path)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_no_help_names_a_type_beside_a_flag(cli):
    for command in ([], ["fit"], ["runs"], ["finetune"]):
        status, out, _ = cli(*command, "--help")
        assert status == 0
        assert "--help" in out
        assert "bool" not in out.lower()


def test_predictions_end_with_another_question(cli, tmp_path):
    fit = tmp_path / "fit.json"
    laws.save(fit, few_forms(mixtures(20), "linear"))
    point = [part for n, share in enumerate(("0.5", "0.5", "0")) for part in ("--at", f"share_{n}={share}")]
    status, out, err = cli("predict", fit, *point)
    assert status == 0
    assert out.startswith("loss ")
    assert err.splitlines()[-1] == f"next: allometry predict {fit} {' '.join(point)} --level 0.5"
    carried = "--metric 3.1 --from-params 10M --from-tokens 200M --alpha 0.1 --beta 0.1 --params 1B --tokens 20B"
    assert cli("predict", *carried.split())[2] == "next: allometry quickstart --dry-run\n"
