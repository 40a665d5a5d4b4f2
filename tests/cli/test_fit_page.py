"""``fit --html``: a page of a table's law from the command line, and what it refuses."""

import numpy as np

from helpers.ladders import ladder
from helpers.pages import read


def table(path):
    runs = ladder("chinchilla", noise=0.004)
    rows = [f"{n:.0f},{d:.0f},{loss:.6f}" for n, d, loss in zip(runs.num_params, runs.tokens, runs.loss, strict=True)]
    path.write_text("num_params,tokens,loss\n" + "\n".join(rows) + "\n")
    return path


def budgets(path):
    """Nine sizes at each of four budgets, by a known law."""
    rows = []
    for flops in (1e16, 1e17, 1e18, 1e19):
        best = (flops / 6 / 20) ** 0.5
        for shift in np.geomspace(1 / 5, 5, 9):
            size = best * shift
            tokens = flops / 6 / size
            rows.append(f"{size:.0f},{tokens:.0f},{1.7 + 406 / size**0.34 + 411 / tokens**0.28:.6f}")
    path.write_text("num_params,tokens,loss\n" + "\n".join(rows) + "\n")
    return path


def test_a_page_of_a_table(cli, tmp_path):
    page = tmp_path / "page.html"
    status, out, err = cli("fit", table(tmp_path / "runs.csv"), "--law", "power", "--html", page)
    assert status == 0
    assert "power" in out
    assert str(page) in err
    assert "Scaling law of runs.csv" in read(page).words["h1"]


def test_a_page_of_laws_of_any_inputs(cli, tmp_path):
    page, source = tmp_path / "page.html", table(tmp_path / "runs.csv")
    status, _, err = cli(
        "fit", source, "--target", "loss", "--input", "num_params", "--input", "tokens", "--html", page
    )
    assert status == 0
    assert str(page) in err
    assert "Law of loss in runs.csv" in read(page).words["h1"]


def test_laws_without_a_page(refused, tmp_path):
    source = table(tmp_path / "runs.csv")
    three = "--law", "three_term", "-o", tmp_path / "fit.json"
    assert "--html" in refused("fit", source, *three, "--html", tmp_path / "page.html")
    assert not (tmp_path / "fit.json").exists()
    assert not (tmp_path / "page.html").exists()


def test_a_page_of_the_minima_of_budgets(cli, tmp_path):
    page, fit = tmp_path / "page.html", tmp_path / "fit.json"
    status, out, err = cli("fit", budgets(tmp_path / "runs.csv"), "--isoflop", "--html", page, "-o", fit)
    assert status == 0, err
    assert "budgets have a minimum" in out
    assert str(page) in err
    assert "Best size for each budget in runs.csv" in read(page).words["h1"]
    assert not {"--html", "-o", "--isoflop"} & set(err.splitlines()[-1].split())  # the next command spares them


def test_nothing_is_fitted_or_written_where_the_page_has_no_place(refused, tmp_path):
    source, fit = table(tmp_path / "runs.csv"), tmp_path / "fit.json"
    assert "is a folder" in refused("fit", source, "-o", fit, "--html", tmp_path)
    assert not fit.exists()
