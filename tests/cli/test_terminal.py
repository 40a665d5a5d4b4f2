"""What all commands share: the next command, --quiet, --verbose, --version, doctor, completion, plain words."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from allometry.cli import app as application
from allometry.cli.terminal import complete
from allometry.cli.terminal.output import as_options
from allometry.installed_extras import ADDED, installed_extras
from allometry.runs import machine_checks
from allometry.runs.study import Study
from helpers import studies

ROOT = typer.main.get_command(application.app)
# Words of Python and its libraries, which no message may have.
PYTHON = re.compile(
    r"Traceback|Input should|[Pp]ydantic|NoneType|\bNone\b|\bnan\.0|<class|\bint\b|\bfloat\b|\bstr\b|\bdict\b|kwarg"
    r"|\bcolumns=|\bwhere=|\bcounted=|num_devices|price_per_hour|flops_per_second|vocab_size"
)


def parsed(line):
    """The command line as its own command takes it; raises where an option is unknown or a value does not fit."""
    program, name, *rest = shlex.split(line)
    assert program == "allometry"
    command = ROOT.commands[name]
    return command.make_context(name, rest, parent=typer.Context(ROOT, info_name="allometry"))


def following(err):
    """The next command that was printed, last but for the time taken."""
    [line] = [line for line in err.splitlines() if line.startswith("next: ")]
    assert err.splitlines()[-1] == line
    return line.removeprefix("next: ")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    study = studies.build(tmp_path_factory.mktemp("built") / "s")
    settings = study.settings()
    study.write("study.json", settings | {"study": settings["study"] | {"minutes": 5}})
    return study.path


@pytest.fixture
def folder(tmp_path, monkeypatch, built):
    """A folder to work in, with a table, and a study whose name must be quoted."""
    monkeypatch.chdir(tmp_path)
    rows = ["N,D,loss,corpus,experts"]
    for n in np.geomspace(1e6, 1e9, 5):
        for d in np.geomspace(1e8, 1e11, 4):
            for corpus, floor in (("web", 1.7), ("code text", 1.5)):
                loss = floor + 400 / n**0.34 + 1000 / d**0.3
                rows.append(f"{n:.6g},{d:.6g},{loss:.9f},{corpus},{int(np.log10(d))}")
    Path("runs.csv").write_text("\n".join(rows))
    shutil.copytree(built, "my 'study'")
    return tmp_path


@pytest.mark.parametrize("name", application.COMMANDS)
def test_the_help_has_examples_that_parse(cli, name):
    status, out, _ = cli(name, "--help")
    assert status == 0
    assert "Examples:" in out
    assert "<float>" not in out
    lines = application.COMMANDS[name][1]
    assert len(lines) >= 2
    for line in lines:
        if not line.startswith("torchrun"):
            assert line.split()[1] == name
            parsed(line)


def test_every_option_says_what_it_does():
    for name, command in ROOT.commands.items():
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"


def test_each_command_ends_with_the_next_one(cli, folder):
    """A walk by what is printed, from a table to a plan; every line is taken as it stands."""
    status, _, err = cli("fit", "runs.csv", "--where", "corpus=code text")
    assert status == 0, err
    line = following(err)
    assert shlex.split(line) == ["allometry", "fit", "runs.csv", "--where", "corpus=code text", "-o", "fit.json"]
    for command in ("fit", "plan", "predict", "plan"):
        assert shlex.split(line)[1] == command
        parsed(line)
        status, _, err = cli(*shlex.split(line)[1:])
        assert status == 0, err
        line = following(err)
    assert Path("fit.json").is_file()


def test_the_next_command_of_a_study_is_what_it_lacks(cli, folder):
    study = Path("my 'study'")
    for name, command in (("outcome.json", "train"), ("plan.json", "plan"), ("fit.json", "fit")):
        (study / name).unlink()
        for asked in (("runs", study), ("report", study)):
            status, _, err = cli(*asked)
            assert status == 0, err
            line = following(err)
            assert shlex.split(line)[:2] == ["allometry", command]
            assert shlex.split(line)[2].startswith("my 'study'")
            parsed(line)
    shutil.rmtree(study / "runs")
    assert shlex.split(following(cli("runs", study)[2])) == ["allometry", "ladder", "my 'study'"]


def test_a_baseline_that_is_scaled_ends_with_one_rule_and_then_a_measurement(cli):
    baseline = ("--params", "100M", "--batch", "500k", "--lr", "0.002", "--factor", "10")
    line = following(cli("scale", *baseline)[2])
    parsed(line)
    assert shlex.split(line) == ["allometry", "scale", *baseline, "--rule", "step_law"]
    assert following(cli(*shlex.split(line)[1:])[2]) == "allometry quickstart --dry-run"


def test_a_run_is_written_with_where_its_weights_are_there(cli, folder):
    study = Study(Path("my 'study'"))
    best = study.best_run()
    for asked, then in ((("report", study.path), "runs"), (("runs", study.path, best.id), "report")):
        assert shlex.split(following(cli(*asked)[2])) == ["allometry", then, "my 'study'"]
    study.weights_path(best.id).write_bytes(b"")
    for asked in (("report", study.path), ("runs", study.path, best.id)):
        assert shlex.split(following(cli(*asked)[2])) == ["allometry", "generate", f"my 'study'/{best.id}"]


@pytest.mark.parametrize(
    "arguments",
    [("fit", "runs.csv"), ("plan", "my 'study'", "--flops", "1e14", "--dry-run"), ("runs", "my 'study'"), ("doctor",)],
)
def test_a_machine_s_answer_has_no_next_command(cli, folder, arguments):
    status, out, err = cli(*arguments, "--json")
    assert status == 0, err
    json.loads(out)
    assert "next:" not in out + err


def test_quiet_prints_the_answer_alone_wherever_it_stands(cli, folder):
    loud = cli("fit", "runs.csv", "--where", "corpus=web")
    assert "next:" in loud[2]
    for arguments in (("-q", "fit", "runs.csv"), ("fit", "runs.csv", "--quiet")):
        assert cli(*arguments, "--where", "corpus=web") == (0, loud[1], "")
    assert cli("fit", "runs.csv", "--where", "corpus=web")[2] != ""  # the next process is loud again
    status, out, err = cli("-q", "fit", "nowhere.csv")
    assert (status, out) == (2, "")
    assert err.startswith("allometry:")


def test_verbose_adds_versions_time_and_the_trace_of_a_mistake(cli, folder):
    status, _, err = cli("runs", "my 'study'", "-v")
    assert status == 0
    assert re.search(r"allometry \d.*numpy \d", err.splitlines()[0])
    assert re.fullmatch(r"\d+\.\d s", err.splitlines()[-1])
    status, _, err = cli("--verbose", "fit", "nowhere.csv")
    assert status == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("allometry: no such file")


def test_the_version_says_what_each_extra_would_add(cli):
    status, out, _ = cli("--version")
    assert status == 0
    lines = out.splitlines()
    assert re.fullmatch(r"allometry \d\S*", lines[0])
    assert "numpy" in lines[1]
    for extra in ADDED:
        [line] = [line for line in lines if line.split()[:1] == [extra]]
        assert "installed: " in line or f"pip install 'allometry[{extra}]'" in line


def test_an_extra_is_complete_when_all_of_it_is_there():
    by_name = {each.name: each for each in installed_extras({"torch": "2.13", "tokenizers": "0.2"}.get)}
    assert by_name["nn"].complete
    assert by_name["train"].lacks == ("safetensors",)
    assert by_name["train"].has == {"torch": "2.13", "tokenizers": "0.2"}
    assert not by_name["ray"].complete


def test_the_table_of_extras_is_that_of_the_project():
    """Each extra of pyproject.toml that a user installs, with the distributions that it brings."""
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def brought(name):
        names = set()
        for requirement in extras[name]:
            inner = re.match(r"allometry\[(.*)\]", requirement)
            names |= brought(inner[1]) if inner else {re.match(r"[\w-]+", requirement)[0]}
        return names

    assert set(ADDED) == set(extras) - {"all", "test", "benchmark"} - {name for name in extras if name == "docs"}
    for name, (_, distributions) in ADDED.items():
        assert set(distributions) == brought(name), name


def test_doctor_says_what_is_there_and_what_would_help(cli, monkeypatch):
    monkeypatch.setattr(machine_checks, "compiler", lambda: None)
    monkeypatch.setattr(machine_checks, "version_of", lambda name: None)
    monkeypatch.setattr(machine_checks, "HUB", ("127.0.0.1", 9))
    status, out, err = cli("doctor")
    assert status == 0
    assert "pip install 'allometry[train]'" in out
    assert "next: allometry quickstart --dry-run" in err
    for name in ("system", "compiler", "processor", "GPU", "threads", "memory", "disk", "network"):
        assert re.search(rf"^(ok|!)\s+{name}\s", out, flags=re.MULTILINE), name
    if os.uname().sysname == "Linux":
        assert re.search(r"^!\s+compiler\s+none", out, flags=re.MULTILINE)
        assert "g++" in out


def test_a_check_that_hangs_or_fails_is_a_line(monkeypatch):
    def fail():
        raise OSError("no such thing")

    monkeypatch.setattr(machine_checks, "PATIENCE", 0.05)
    monkeypatch.setattr(machine_checks, "_memory", fail)
    monkeypatch.setattr(machine_checks, "_network", lambda: signal.pause())
    by_name = {check.name: check for check in machine_checks.machine_checks()}
    assert "no answer" in by_name["network"].value
    assert "memory" in by_name


PROGRAM = "import sys; sys.argv = ['allometry']; from allometry.cli.app import main; main()"


@pytest.mark.parametrize(
    ("words", "offered"),
    [("allometry fi", {"fit", "finetune"}), ("allometry fit --law ch", {"chinchilla", "chinchilla_tied"})],
)
def test_a_shell_completes_commands_and_values(words, offered):
    asked = {"_ALLOMETRY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == offered


def test_what_is_offered_begins_as_what_was_written():
    assert {"h100", "h100-pcie"} <= set(complete.device_names("h1"))
    assert complete.rule_names("step") == ["step_law"]
    assert complete.one_of("ladder", "sweep")("") == ["ladder", "sweep"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_generate_that_is_stopped_keeps_its_text_and_says_by_what(cli, built, monkeypatch, number, status):
    from allometry.lm import generate
    from allometry.lm.inference.write_texts import WrittenText

    def write(study, record, texts, writing):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        return [WrittenText(texts[0], "so far", 2, 0.1, "interrupted", 0)]

    monkeypatch.setattr(generate, "generate", write)
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it runs in the background without
    try:
        ended, _, err = cli("generate", built)
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
    assert ended == status
    assert "this is the text so far" in err
    assert "the same command again" not in err


@pytest.mark.parametrize(
    ("said", "command", "shown"),
    [
        ("needs price_per_hour, the price", "plan", "needs --price, the price"),
        ("price per hour must be above zero", "plan", "--price must be above zero"),
        ("num devices must be a finite number", "plan", "--count must be a finite number"),
        ("give flops_per_second as measured", "plan", "give --flops-per-second as measured"),
        ("no column for num_params", "fit", "no column for num_params"),
        ("columns: no field 'a'", "fit", "--column: no field 'a'"),
        ("leave columns= out", "fit", "leave --column out"),
    ],
)
def test_names_of_arguments_become_options(said, command, shown):
    assert as_options(said, command) == shown


WRONG = """
fit runs.csv --level x --law chinchilla
fit runs.csv --law chinchilla --level 0
fit runs.csv --law nope
fit runs.csv --law chinchilla --law chinchilla
fit runs.csv --column foo=bar
fit runs.csv --column loss
fit runs.csv --column N=nan
fit runs.csv --counted foo
fit runs.csv --objective foo --law chinchilla
fit runs.csv --target nope --input N
fit runs.csv --target loss --input nope
fit runs.csv --target loss --input corpus
fit runs.csv --target loss --input N --group nope
fit runs.csv --target loss --input N --cost 6*(
fit runs.csv --target loss --input N --law chinchilla
fit runs.csv --by nope
fit runs.csv --cost N
fit huge.csv
fit nested.json
fit deep.json
fit broken.toml
fit "my 'study'" --column a=b
predict nested.json --params 1B --tokens 1B
predict deep.json --params 1B --tokens 1B
predict runs.csv --params 1B --tokens 1B
predict "my 'study'" --params nan --tokens 1B
predict "my 'study'" --params 1M --tokens 1M --batch 4
predict "my 'study'" --at a=1
predict --metric nan --from-params 1 --from-tokens 1 --params 1 --tokens 1 --alpha 1 --beta 1
predict --metric x
plan
plan "my 'study'"
plan "my 'study'" --flops nan
plan "my 'study'" --hours x
plan "my 'study'" --device h100 --cost 100
plan "my 'study'" --device cuda --hours 1
plan "my 'study'" --device tpu --hours 1
plan "my 'study'" --device h100 --hours nan
plan "my 'study'" --device h100 --hours 1 --count 0
plan "my 'study'" --device h100 --hours 1 --count x
plan "my 'study'" --device h100 --hours 1 --price -3
plan "my 'study'" --flops 1e14 --flops-per-second 1e15 --device h100
plan "my 'study'" --flops 1e14 --vocab 5
plan "my 'study'" --flops 1e14 --memory 80
plan "my 'study'" --flops 1e14 --level 2
plan "my 'study'" --flops 1e14 --loss nan
plan nested.json --flops 1e14
plan deep.json --flops 1e14
plan runs.csv --flops 1e14
ladder broken.toml
ladder wrong.toml
ladder kinds.toml
ladder nested.json
ladder text.toml --device h100
ladder text.toml --gpus x
quickstart --minutes nan --out q
quickstart --minutes x --out q
quickstart --seed -1 --out q
quickstart --device h100 --out q
quickstart --study broken.toml --out q
train broken.toml
train kinds.toml
train nested.json
train deep.json
train nowhere.json
scale --params x --batch 1 --lr 1 --factor 2
scale --params 1 --batch 1 --lr nan --factor 2
scale --params 1 --batch 1 --lr x --factor 2
report nowhere
runs nowhere
runs "my 'study'" nope
runs "my 'study'" --kind nope
generate nowhere
generate "my 'study'" --tokens x
generate "my 'study'" --tokens 0
evaluate "my 'study'"
export "my 'study'" --to m --format foo
import nested.json --out i
import nowhere --out i
import runs.csv --out i --counted foo
data nowhere --out c
data runs.csv --out c --tokenizer bpe:x
finetune nowhere --data runs.csv --out t
audit nowhere
audit "my 'study'" --steps x
""".strip().splitlines()


@pytest.mark.parametrize("line", WRONG)
def test_a_mistake_is_one_line_in_plain_words_that_leaves_nothing(refused, folder, line):
    Path("nested.json").write_text('{"a": {"b": [1, {"c": null}]}}')
    Path("deep.json").write_text("[" * 100_000)
    Path("huge.csv").write_text("N,D,loss\n1e6,1e8,3\n1e200,1e200,2.9\n1e8,1e9,2.8\n")
    Path("broken.toml").write_text("data = [\n")
    Path("wrong.toml").write_text('data = "runs.csv"\nwidhts = [16, 24]\n')
    Path("kinds.toml").write_text('data = 3\nwidths = "16"\nlr = nan\n[model]\nwidth = "a"\n[train]\ntokens = true\n')
    Path("text.toml").write_text('data = "runs.csv"\nwidths = [16, 24]\ntokens = [1000]\n')
    before = sorted(path.name for path in folder.iterdir())
    message = refused(*shlex.split(line))
    assert not PYTHON.search(message), message
    assert sorted(path.name for path in folder.iterdir()) == before


def test_why_a_table_is_refused_is_said_once_and_the_rest_is_noted(cli, folder):
    rows = ["N,D,loss"] + [f"1e6,{d}e8,{loss}" for d, loss in ((1, 3), (3, 2.9), (9, 2.8), (9, 2.8))]
    Path("tied.csv").write_text("\n".join(rows))
    status, _, err = cli("fit", "tied.csv")
    assert status == 2
    assert err.count("one size") == 1
    assert "note: 1 run (row 4): the same as another" in err


LAWS = (
    ("--target", "loss", "--input", "N", "--input", "D", "--group", "corpus", "--cost", "6*N*D"),
    ("--target", "loss", "--input", "N", "--input", "D", "--by", "corpus"),
)


@pytest.mark.parametrize("options", LAWS, ids=["group", "by"])
def test_a_law_of_any_inputs_is_fitted_written_and_asked(cli, refused, folder, options):
    status, out, err = cli("fit", "runs.csv", *options, "-o", "law.json")
    assert status == 0, err
    line = following(err)
    context = parsed(line)
    assert context.params["source"] == Path("law.json")
    status, _, err = cli(*shlex.split(line)[1:])
    assert status == 0, err
    at = ("--at", "N=2e9", "--at", "D=2e11")
    answers = {}
    for corpus, floor in (("web", 1.7), ("code text", 1.5)):
        status, out, err = cli("predict", "law.json", *at, "--at", f"corpus={corpus}", "--json")
        assert status == 0, err
        answers[corpus] = json.loads(out)
        truth = floor + 400 / 2e9**0.34 + 1000 / 2e11**0.3
        assert answers[corpus]["value"] == pytest.approx(truth, rel=0.02)
        assert answers[corpus]["low"] <= answers[corpus]["value"] <= answers[corpus]["high"]
    assert answers["code text"]["value"] < answers["web"]["value"]
    assert "nope" in refused("predict", "law.json", *at, "--at", "corpus=nope")


def test_several_targets_are_fitted_at_once(cli, folder):
    lines = Path("runs.csv").read_text().splitlines()
    more = [f"{lines[0]},score"] + [f"{line},{5 - float(line.split(',')[2])}" for line in lines[1:]]
    Path("runs.csv").write_text("\n".join(more))
    inputs = ("--input", "N", "--input", "D", "--where", "corpus=web")
    status, out, err = cli("fit", "runs.csv", "--target", "loss", "--target", "score", *inputs, "-o", "two.json")
    assert status == 0, err
    status, out, err = cli("predict", "two.json", "--at", "N=5e8", "--at", "D=5e10", "--json")
    assert status == 0, err
    loss, score = (part["value"] for part in json.loads(out))
    assert loss + score == pytest.approx(5, abs=0.02)
