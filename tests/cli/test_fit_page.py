"""``fit --html``: a page of a table's law from the command line, and what it refuses."""

from helpers.ladders import ladder
from helpers.pages import read


def table(path):
    runs = ladder("chinchilla", noise=0.004)
    rows = [f"{n:.0f},{d:.0f},{loss:.6f}" for n, d, loss in zip(runs.num_params, runs.tokens, runs.loss, strict=True)]
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
    assert "--html" in refused("fit", source, "--isoflop", "--html", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_nothing_is_fitted_or_written_where_the_page_has_no_place(refused, tmp_path):
    source, fit = table(tmp_path / "runs.csv"), tmp_path / "fit.json"
    assert "is a folder" in refused("fit", source, "-o", fit, "--html", tmp_path)
    assert not fit.exists()
