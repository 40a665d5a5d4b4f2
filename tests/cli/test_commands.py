"""The commands as a user meets them: answers, files, and mistakes that end in one line and status 2."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from helpers.builders import drawn_words, study_toml

LADDER = {
    "widths": [16, 24, 32, 48],
    "tokens": [20_000, 40_000, 80_000],
    "sweep": False,
    "lr": 0.4,
    "batch_tokens": 256,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return drawn_words(tmp_path_factory.mktemp("text") / "words.txt", 6000)


@pytest.fixture(scope="module")
def runs_csv(tmp_path_factory):
    """A Chinchilla law with known constants, without noise."""
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    rows = ["N,D,loss"]
    for n in np.geomspace(1e6, 1e9, 7):
        for d in np.geomspace(1e8, 1e11, 5):
            rows.append(
                f"{n:.6g},{d:.6g},{1.7 + 400 / float(f'{n:.6g}') ** 0.34 + 1000 / float(f'{d:.6g}') ** 0.3:.9f}"
            )
    path.write_text("\n".join(rows))
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory, text):
    """A small ladder, trained for real."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "ladder.toml").write_text(study_toml(text, **LADDER))
    command = [
        sys.executable,
        "-m",
        "allometry.cli.app",
        "ladder",
        folder / "ladder.toml",
        "--out",
        folder / "s",
        "--yes",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "s"


def test_help_is_fast_enough_to_be_asked_for():
    code = (
        "import sys; import allometry.cli.app; print([m for m in ('torch', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_study_from_ladder_to_report(cli, study):
    status, out, _ = cli("fit", study, "--json")
    assert status == 0
    fitted = json.loads(out)
    assert fitted == json.loads((study / "fit.json").read_text())

    status, out, _ = cli("plan", study, "--flops", "1.5e11", "--json")
    assert status == 0
    plan = json.loads(out)
    assert plan["flops_exact"] == pytest.approx(1.5e11, rel=1e-3)
    assert plan["low"] < plan["loss"] < plan["high"]

    status, out, _ = cli("train", study / "plan.json", "--json")
    assert status == 0
    outcome = json.loads(out)
    assert outcome["predicted"] == plan["loss"]
    assert outcome["relative_error"] == pytest.approx(outcome["predicted"] / outcome["actual"] - 1)
    assert outcome["inside"] == (outcome["low"] <= outcome["actual"] <= outcome["high"])
    assert 0 < outcome["ladder_share"] < 1
    record = json.loads((study / "runs" / outcome["run"] / "record.json").read_text())
    assert record["kind"] == "target"
    assert record["counts"]["flops"] == pytest.approx(1.5e11, rel=0.02)

    status, out, _ = cli("train", study / "plan.json", "--json")  # asked again, it is found
    assert json.loads(out) == outcome

    status, out, _ = cli("report", study)
    assert status == 0
    page = (study / "report.html").read_text()
    assert f"{outcome['actual']:.4f}" in page

    status, out, _ = cli("predict", study, "--params", "50k", "--tokens", "100k", "--json")
    assert status == 0
    assert 0 < json.loads(out)["loss"] < math.log(256)


def test_generate_writes_the_same_text_for_the_same_seed(cli, study):
    run = sorted(path.name for path in (study / "runs").iterdir())[0]
    first, again, other = (
        cli("generate", f"{study}/{run[:6]}", "--prompt", "abc", "--tokens", "40", "--seed", seed) for seed in (1, 1, 2)
    )
    assert first[0] == 0
    assert first[1].startswith("abc")
    assert first[:2] == again[:2]  # standard error has the speed
    assert first[1] != other[1]


def test_the_same_ladder_again_trains_nothing(cli, study, text, tmp_path):
    stamps = {path: path.stat().st_mtime_ns for path in study.glob("runs/*/record.json")}
    toml = tmp_path / "ladder.toml"
    toml.write_text(study_toml(text, **LADDER))
    assert cli("ladder", toml, "--out", study, "--yes")[0] == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_a_run_of_a_toml_file(cli, text, tmp_path):
    toml = tmp_path / "run.toml"
    toml.write_text(
        f'data = "{text}"\n[model]\nwidth = 16\nlayers = 2\nhidden = 40\ncontext = 32\n'
        "[train]\ntokens = 20000\nbatch_tokens = 256\nlr = 0.4\n"
    )
    status, out, err = cli("train", toml, "--json")
    assert status == 0, err
    record = json.loads(out)
    assert record["kind"] == "run"
    assert record["loss"] < math.log(256)


def test_fit_and_predict_on_anybodys_table(cli, runs_csv, tmp_path):
    fit = tmp_path / "fit.json"
    assert cli("fit", runs_csv, "--law", "chinchilla", "-o", fit)[0] == 0
    status, out, _ = cli("predict", fit, "--params", "10B", "--tokens", "1e12", "--json")
    assert status == 0
    value = json.loads(out)
    assert value["loss"] == pytest.approx(1.7 + 400 / 1e10**0.34 + 1000 / 1e12**0.3, rel=1e-4)
    assert any("above the largest" in text for text in value["notes"])
    status, out, _ = cli("plan", fit, "--flops", "1e20", "--json")
    assert status == 0
    best = json.loads(out)
    n = (0.34 * 400 / (0.3 * 1000)) ** (1 / 0.64) * (1e20 / 6) ** (0.3 / 0.64)
    assert best["optimum"]["num_params"] == pytest.approx(n, rel=0.01)
    status, out, _ = cli("plan", fit, "--device", "h100", "--count", "8", "--hours", "1")
    assert status == 0
    assert "predicted loss" in out


def test_scale_carries_a_baseline_by_every_rule(cli):
    status, out, _ = cli("scale", "--params", "100", "--batch", "200", "--lr", "0.01", "--factor", "2", "--json")
    assert status == 0
    rules = json.loads(out)
    proportional = rules["proportional"]
    assert (proportional["params"], proportional["batch"], proportional["lr"]) == (200, 400, 0.02)
    assert proportional["evidence"]
    assert {"sqrt", "mup", "step_law", "deepseek"} <= set(rules)
    assert rules["sqrt"]["lr"] == pytest.approx(0.01 * math.sqrt(2))
    status, out, _ = cli("scale", "--params", "100", "--batch", "200", "--lr", "0.01", "--factor", "2")
    assert status == 0
    assert "proportional" in out


def test_predict_carries_a_measured_value_over(cli):
    arguments = [
        "--metric",
        "3",
        "--from-params",
        "1M",
        "--from-tokens",
        "1B",
        "--params",
        "8M",
        "--tokens",
        "1B",
        "--alpha=-0.1",
        "--beta=-0.1",
    ]
    status, out, _ = cli("predict", *arguments, "--json")
    assert status == 0
    assert json.loads(out)["value"] == pytest.approx(3 * 8**-0.1)


def test_a_dry_run_costs_nothing_and_says_what_it_would(cli, tmp_path):
    status, out, err = cli("quickstart", "--dry-run", "--minutes", "60", "--out", tmp_path / "q", "--json")
    assert status == 0, err
    value = json.loads(out)
    assert value["ladder_seconds"] + value["target_seconds"] < 3600
    assert not (tmp_path / "q" / "runs").exists()


def test_texts_that_will_not_do(refused, tmp_path):
    empty, tiny, binary = tmp_path / "empty.txt", tmp_path / "tiny.txt", tmp_path / "binary.txt"
    empty.write_bytes(b"")
    tiny.write_bytes(b"a line of text\n" * 300)
    binary.write_bytes(bytes(range(256)) * 100)
    (tmp_path / "folder").mkdir()
    out = tmp_path / "out"
    assert "no such file" in refused("quickstart", "--data", tmp_path / "none.txt", "--out", out)
    assert "no text" in refused("quickstart", "--data", empty, "--out", out)
    assert "no text" in refused("quickstart", "--data", binary, "--out", out)
    assert "no text" in refused("quickstart", "--data", tmp_path / "folder", "--out", out)
    assert not out.exists()
    assert "too few" in refused("quickstart", "--data", tiny, "--minutes", "60", "--out", out, "--yes")


def test_minutes_too_few_for_any_ladder(refused, tmp_path):
    assert "the least is" in refused("quickstart", "--minutes", "0.2", "--out", tmp_path / "q", "--yes")
    assert "minutes" in refused("quickstart", "--minutes", "-1", "--out", tmp_path / "q")
    toml = tmp_path / "study.toml"
    toml.write_text('data = "stdlib"\nminutes = 1')
    twice = refused("quickstart", "--study", toml, "--data", "stdlib", "--seed", "3", "--out", tmp_path / "q")
    assert "--data, --seed: a study says this itself" in twice
    assert "not a study" in refused("quickstart", "--study", tmp_path, "--out", tmp_path / "q")


def test_an_out_that_belongs_to_something_else(refused, study, text, tmp_path):
    assert "holds a study" in refused("quickstart", "--data", text, "--out", study, "--yes")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert "not a study" in refused("quickstart", "--data", text, "--out", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_tables_that_will_not_do(refused, tmp_path):
    def table(*rows):
        path = tmp_path / "t.csv"
        path.write_text("\n".join(rows))
        return path

    message = refused("fit", table("size,words,score", "1,2,3"))
    assert "size" in message
    assert "tokens" in message
    assert refused("fit", table(""))
    assert refused("fit", tmp_path / "none.csv")
    one_size = [f"1e6,{d:g},{3 - math.log10(d) / 10}" for d in np.geomspace(1e7, 1e9, 8)]
    assert "size" in refused("fit", table("N,D,loss", *one_size))
    broken = [f"{n:g},{d:g},nan" for n in (1e6, 1e7, 1e8) for d in (1e8, 1e9, 1e10)]
    assert "no run has a finite loss" in refused("fit", table("N,D,loss", *broken))
    assert "oops" in refused("fit", table("N,D,loss", "1e6,1e8,oops"))


def test_names_that_are_not_known(refused, runs_csv, study, tmp_path):
    assert "chinchilla" in refused("fit", runs_csv, "--law", "newton")
    baseline = ["scale", "--params", "100", "--batch", "200", "--lr", "0.01", "--factor", "2"]
    assert "proportional" in refused(*baseline, "--rule", "guess")
    assert "no run" in refused("generate", f"{study}/zzzz")
    assert "not a study" in refused("report", tmp_path)
    assert "neither" in refused("generate", tmp_path / "x")
    assert "h100" in refused("plan", study_fit(tmp_path), "--device", "abacus", "--hours", "1")


def study_fit(folder):
    from allometry import laws

    n, d = (grid.ravel() for grid in np.meshgrid([1e6, 1e7, 1e8], [1e8, 1e9, 1e10]))
    rows = [
        {"num_params": a, "tokens": b, "loss": 1.7 + 400 / a**0.34 + 1000 / b**0.3} for a, b in zip(n, d, strict=True)
    ]
    path = folder / "some_fit.json"
    path.write_text(json.dumps(laws.fit("chinchilla", laws.Observations.from_records(rows)).to_json()))
    return path


def test_numbers_that_are_none(refused, tmp_path):
    fit = study_fit(tmp_path)
    assert "--params" in refused("predict", fit, "--params", "many", "--tokens", "1e9")
    assert "--tokens" in refused("predict", fit, "--params", "1e9", "--tokens=-5")
    assert "needed" in refused("predict", fit)
    assert "--lr" in refused("scale", "--params", "1", "--batch", "1", "--lr", "x", "--factor", "2")
    assert "--factor" in refused("scale", "--params", "1", "--batch", "1", "--lr", "1")
    assert "no such option" in refused("predict", fit, "--parms", "1").lower()
    assert "no such command" in refused("forecast").lower()
    assert refused("plan", fit, "--flops", "0")
    assert refused("plan", fit)


def test_configurations_with_mistakes(refused, text, tmp_path):
    toml = tmp_path / "study.toml"
    toml.write_text(f'data = "{text}"\nminute = 5\n')
    assert "minute" in refused("ladder", toml, "--out", tmp_path / "s")
    toml.write_text("data = \n")
    assert "not readable" in refused("ladder", toml, "--out", tmp_path / "s")
    assert "No such file" in refused("ladder", tmp_path / "none.toml", "--out", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_fit_that_is_none(refused, tmp_path):
    path = tmp_path / "fit.json"
    path.write_text("{")
    assert refused("predict", path, "--params", "1e9", "--tokens", "1e9")
    path.write_text('{"kind": "fit"}')
    assert refused("predict", path, "--params", "1e9", "--tokens", "1e9")
    path.write_bytes(b"\x80\x04K\x01.")  # a pickle is never opened as one
    assert refused("predict", path, "--params", "1e9", "--tokens", "1e9")


def test_a_run_is_exported_scored_and_written_with(cli, refused, study, tmp_path):
    status, out, err = cli("export", study, "--to", tmp_path / "hf", "--json")
    assert status == 0, err
    exported = json.loads(out)
    assert exported["architecture"] == "BitNetForCausalLM"
    names = {"config.json", "generation_config.json", "model.safetensors", "README.md"}
    assert {path.name for path in (tmp_path / "hf").iterdir()} == names | {"tokenizer.json", "tokenizer_config.json"}
    card = (tmp_path / "hf" / "README.md").read_text()
    record = json.loads((study / "runs" / exported["run"] / "record.json").read_text())
    assert f"{record['loss']:.4f}" in card
    assert "not an empty folder" in refused("export", study, "--to", tmp_path / "hf")
    assert "there are hf, gguf" in refused("export", study, "--to", tmp_path / "x", "--format", "onnx")

    (tmp_path / "text.txt").write_text("abc def " * 100)
    status, out, err = cli("evaluate", study, "--text", tmp_path / "text.txt", "--json")
    assert status == 0, err
    (score,) = json.loads(out)["texts"].values()
    assert score["bytes"] == 800
    assert 0 < score["bits_per_byte"] < 12
    assert "nothing to score" in refused("evaluate", study)
    assert "no such file" in refused("evaluate", study, "--text", tmp_path / "none.txt").lower()

    status, out, err = cli("generate", study, "--prompt", "ab", "--prompt", "cd", "--tokens", 5, "--json")
    assert status == 0, err
    assert [text["text"][:2] for text in json.loads(out)] == ["ab", "cd"]
    assert "no run with an id" in refused("distill", study, "--teacher", study / "zz", "--out", tmp_path / "taught")
    assert "no finished rung of width 7" in refused(
        "distill", study, "--teacher", study, "--out", tmp_path / "taught", "--width", 7
    )
    assert not (tmp_path / "taught").exists()
    for bad in (["--temperature", "nan"], ["--temperature", "1e-320"], ["--top-p", "0"], ["--prompt", "x" * 999]):
        refused("generate", study, *bad)
