"""``allometry plan``: budgets of every kind, goals, studies, checkpoints to continue, and mistakes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from allometry import laws
from allometry.config.run import RunConfig
from allometry.ladder.design import Design
from allometry.ladder.stages import LadderStage, write_stage
from allometry.planning import Plan
from allometry.runs import saved_states
from allometry.runs.study import Study
from allometry.workflow.fits.study_fit import load_fit
from allometry.workflow.study_plan import StudyPractice
from helpers import studies

LAW = {"E": 1.7, "A": 400.0, "B": 1000.0, "alpha": 0.34, "beta": 0.3}


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """A fit to runs of a known law."""
    n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e8, 1e11, 5)))
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(n.shape))
    loss = laws.Chinchilla().loss(LAW, n, d) * noise
    rows = [{"num_params": a, "tokens": b, "loss": c} for a, b, c in zip(n, d, loss, strict=True)]
    path = tmp_path_factory.mktemp("plan") / "fit.json"
    laws.save(path, laws.fit("chinchilla", laws.Observations.from_records(rows)))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A study whose losses come from a known law."""
    study = studies.build(tmp_path_factory.mktemp("built") / "study")
    settings = study.settings()
    study.write("study.json", settings | {"study": settings["study"] | {"minutes": 5}})
    return study


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """A forecast over active parameters, tokens and experts."""
    sizes, tokens, counts = (axis.ravel() for axis in np.meshgrid((2e7, 6e7, 2e8), (5e8, 2e9, 8e9), (1, 4, 16, 64)))
    loss = 1.7 + 400 / (sizes * counts**0.35) ** 0.34 + 1000 / tokens**0.3
    loss = loss * np.exp(0.002 * np.random.default_rng(0).standard_normal(loss.shape))
    table = {"active_params": sizes, "tokens": tokens, "num_experts": counts, "loss": loss}
    runs = laws.Observations.read(table, target="loss", inputs=["active_params", "tokens", "num_experts"])
    path = tmp_path_factory.mktemp("experts") / "experts.json"
    laws.save(path, laws.forecast(runs))
    return path


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A forecast over the samples of fine-tunings of two models."""
    table = [
        {"model": model, "samples": float(count), "loss": base + 12 / count**0.45}
        for model, base in (("small", 1.2), ("large", 0.9))
        for count in np.geomspace(200, 12_800, 7)
    ]
    runs = laws.Observations.read(table, target="loss", inputs=["samples"], group="model")
    path = tmp_path_factory.mktemp("samples") / "samples.json"
    laws.save(path, laws.forecast(runs))
    return path


@pytest.fixture
def study(built, tmp_path):
    """A study with a law and no plan yet."""
    return studies.cut(built, tmp_path / "study", "fit")


@pytest.fixture
def planned(cli):
    """The JSON answer of a plan that must succeed."""

    def run(*arguments):
        status, out, err = cli("plan", *arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def refused(cli):
    """A plan that must be refused: one line, status 2, nothing on standard output."""

    def run(*arguments):
        status, out, err = cli("plan", *arguments)
        assert (status, out) == (2, ""), (out, err)
        lines = err.splitlines()
        assert len([line for line in lines if line.startswith("allometry:")]) == 1, err
        assert "Traceback" not in err
        return lines[-1]

    return run


def test_one_budget_in_four_ways(planned, fit):
    by_flops = planned(fit, "--flops", "1.0253e19")
    machine = ["--device", "h100", "--count", "8", "--mfu", "0.4"]
    seconds = 1.0253e19 / (8 * 0.4 * 989e12)
    by_hours = planned(fit, *machine, "--hours", seconds / 3600)
    by_money = planned(fit, *machine, "--cost", 8 * 2.5 * seconds / 3600, "--price", "2.5")
    measured = planned(fit, "--flops-per-second", 8 * 0.4 * 989e12, "--hours", seconds / 3600)
    for one, other in ((by_hours, by_money), (by_flops, measured)):
        assert other["model"] == one["model"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-9)
    # An MFU counts the whole of attention, so the same FLOPs train a little less.
    assert by_flops["loss"] < by_hours["loss"] < 1.02 * by_flops["loss"]
    assert by_flops["seconds"] is None
    assert by_hours["seconds"] == pytest.approx(seconds)
    assert by_money["cost"] == pytest.approx(8 * 2.5 * seconds / 3600)


def test_the_table_has_everything(cli, fit):
    status, out, _ = cli("plan", fit, "--device", "h100", "--count", "8", "--hours", "24", "--price", "2")
    assert status == 0
    names = [line.split("  ")[0] for line in out.splitlines()]
    wanted = ["budget", "model", "shape", "tokens", "batch", "learning rate", "warmup", "decay", "weight decay"]
    wanted += ["predicted loss", "within 0.1 %", "within 0.5 %", "size off by 2×", "time", "cost", "memory"]
    assert [name for name in names if name in wanted] == wanted
    assert "heads of" in out
    assert out.count("[") >= 7  # an interval for each choice


def test_goals(planned, fit):
    reached = planned(fit, "--loss", "2.3", "--device", "h100")
    assert reached["loss"] == pytest.approx(2.3, rel=1e-6)
    assert reached["seconds"] == pytest.approx(reached["flops_exact"] / (0.4 * 989e12), rel=0.1)
    known = planned(fit, "--params", "1B", "--tokens", "20B")
    assert known["tokens"] == 20e9
    fixed = planned(fit, "--flops", "1e20", "--params", "500M")
    assert fixed["num_params"] == pytest.approx(5e8, rel=0.03)


def test_serving_and_repetition(planned, fit):
    plain = planned(fit, "--flops", "1e20")
    served = planned(fit, "--flops", "1e20", "--inference-tokens", "10B")
    assert served["flops_exact"] + served["inference_flops"] == pytest.approx(1e20)
    assert served["num_params"] < plain["num_params"]
    scarce = planned(fit, "--flops", "1e20", "--tokens-available", "500M")
    assert scarce["loss"] > plain["loss"]
    assert any("reads the data" in note for note in scarce["notes"])


def test_vocabulary_context_and_rule(planned, fit):
    made = planned(fit, "--flops", "1e20", "--vocab", "32k", "--context", "1024", "--rule", "deepseek")
    assert (made["model"]["vocab_size"], made["model"]["context"], made["rule"]) == (32_000, 1024, "deepseek")
    larger = planned(fit, "--flops", "1e20", "--vocab", "256k", "--context", "1024")
    assert larger["tokens"] < made["tokens"]  # the head takes its share


def test_memory(cli, fit):
    status, out, _ = cli("plan", fit, "--params", "7B", "--tokens", "1T", "--device", "h100", "--memory", "24G")
    assert status == 0
    assert "it would on " in out


def test_the_two_most_natural_questions(cli, planned, fit):
    by_tokens = planned(fit, "--tokens", "20B")
    assert by_tokens["tokens"] == 20e9
    by_size = planned(fit, "--params", by_tokens["optimum"]["num_params"])
    assert by_size["optimum"]["tokens"] == pytest.approx(20e9, rel=1e-3)


def test_a_plan_may_be_only_shown(cli, study):
    status, out, err = cli("plan", study.path, "--flops", "1e13", "--dry-run")
    assert status == 0, err
    assert "predicted loss" in out
    assert not (study.path / "plan.json").exists()


def test_one_search_for_plan_and_resume(cli, planned, built, tmp_path):
    """The same study and FLOPs: a new model is the same by both, with the same cautions."""
    study = Study(studies.cut(built, tmp_path / "study", "fit").path)
    chosen = study.records("ladder")[0]
    study.weights_path(chosen.id).write_bytes(b"")
    for flops in ("1e13", "1e16"):
        alone = planned(study.path, "--flops", flops, "--dry-run")
        status, out, err = cli("plan", "--resume", study.path, "--flops", flops, "--json")
        assert status == 0, err
        (new,) = [each["plan"] for each in json.loads(out)["alternatives"] if each["name"] == "a new model"]
        for name in ("num_params", "tokens", "loss", "low", "high", "cautions", "notes", "basin", "intervals", "run"):
            assert new[name] == alone[name], name


def test_a_run_that_reads_its_corpus_many_times_is_a_caution(planned, study):
    planned(study.path, "--flops", "1e13")
    plan, practice = Plan.load(study.path / "plan.json"), StudyPractice(study, load_fit(study.path))
    for passes, cautions, notes in ((10, 1, 0), (2, 0, 1), (0.5, 0, 0)):
        practice.task = practice.task.model_copy(update={"train_tokens": round(plan.tokens / passes)})
        told = practice.with_repetition(plan)
        assert len(told.cautions) - len(plan.cautions) == cautions
        assert len(told.notes) - len(plan.notes) == notes


@pytest.mark.parametrize("counted", ["non_embedding", "matmul", "total"])
def test_a_law_of_any_count_trains_the_model_that_it_planned(cli, planned, study, counted):
    status, _, err = cli("fit", study.path, "--counted", counted, "--law", "chinchilla")
    assert status == 0, err
    made = planned(study.path, "--flops", "1e13")
    config = RunConfig.parse(made["run"])
    assert made["counted"] == counted
    assert config.model.to_dict() == made["model"]
    suffix = "" if counted == "non_embedding" else f"_{counted}"
    assert made["num_params"] == getattr(config.model, f"num_params{suffix}")
    assert config.flops == pytest.approx(made["flops_exact"], rel=1e-3)
    predicted = json.loads(
        cli("predict", study.path, "--params", made["num_params"], "--tokens", made["tokens"], "--json")[1]
    )
    assert predicted["loss"] == pytest.approx(made["loss"])


def test_far_beyond_everything_is_refused_and_far_is_said_on_standard_output(cli, refused, fit):
    assert "is refused" in refused(fit, "--flops", "1e30")
    status, out, err = cli("predict", fit, "--params", "1e14", "--tokens", "1e18")
    assert (status, out) == (2, ""), (out, err)
    status, out, err = cli("predict", fit, "--params", "1e11", "--tokens", "1e14")
    assert status == 0, err
    assert out.startswith("caution: ")


def test_a_study_is_planned_in_its_own_shapes(planned, study):
    made = planned(study.path, "--flops", "1e13")
    assert made["rule"] == "recipe"
    assert made["run"]["train"]["tokens"] == round(made["tokens"])
    assert Plan.load(study.path / "plan.json").to_json() == made


def test_hours_without_a_device_are_the_study_s_own(cli, planned, study):
    made = planned(study.path, "--hours", "1")
    # The records of this study say 2e9 FLOP/s.
    assert made["budget"]["flops_per_second"] == pytest.approx(2e9, rel=1e-3)
    assert made["flops_exact"] == pytest.approx(7.2e12, rel=1e-3)
    _, _, err = cli("plan", study.path, "--hours", "1", "-o", study.path / "other.json")
    assert "FLOP/s, as the largest runs" in err


def save_state(folder, step):
    """The state of a training at a step, as far as a plan reads it."""
    with saved_states.writing(folder, f"step-{step:08d}") as state:
        (state / "state.json").write_text(json.dumps({"step": step}))
    return saved_states.newest(folder)


def test_a_training_under_way_goes_on_with_its_own_trunk(cli, planned, study):
    """Half of a planned run is trained; with half of the rest left, the same trunk goes on to fewer tokens."""
    planned(study.path, "--flops", "3e13")
    config = RunConfig.parse(Plan.load(study.path / "plan.json").run)
    step = config.schedule.decay_start // 2
    tokens = config.schedule.tokens_before(step)
    save_state(study.trunk_path(config.trunk), step)
    left = 0.3 * config.flops
    output = study.path / "next.json"
    status, out, err = cli("plan", "--resume", study.path, "--flops", left, "-o", output, "--json")
    assert status == 0, err
    found = json.loads(out)
    best = found["alternatives"][0]
    assert best["tokens_done"] == tokens
    assert best["flops"] == pytest.approx(left)
    assert best["new_tokens"] == pytest.approx(left / config.model.flops_per_token)
    made = Plan.load(output)
    assert made.to_json() == best["plan"]
    resume = ("plan", "--resume", str(study.path), "--flops", str(left))
    assert cli(*resume)[2].splitlines()[-1] == f"next: allometry {' '.join(resume)} -o plan.json"
    output.unlink()
    status, _, err = cli(*resume, "-o", str(output), "--dry-run")
    assert (status, output.exists()) == (0, False)
    assert err.splitlines()[-1] == f"next: allometry {' '.join(resume)} -o {output}"
    status, _, err = cli(*resume, "-o", str(output))
    assert err.splitlines()[-1] == f"next: allometry train {output} --out {study.path}"
    longer = RunConfig.parse(made.run)
    assert (longer.trunk, longer.train.tokens) == (config.trunk, round(made.tokens))
    assert longer.id != config.id
    names = [each["name"] for each in found["alternatives"]]
    assert names[0].startswith("continue the training under way")
    assert "a new model" in names


def test_rungs_under_way_are_found_as_they_are_trained(cli, study):
    """The first ones by the recipe that the sweep measured, not the one before it; the later ones as decided."""
    design = Design.from_json(study.read("ladder.json"))
    first, later = design.rungs[-1], design.rungs[-1].with_train(seed=7)
    study.write("ladder.json", replace(design, rungs=tuple(design.rungs_by(design.recipe))).to_json())
    write_stage(study, LadderStage((later,), later.flops, "its noise"))
    for config in (first, later):
        save_state(study.trunk_path(config.trunk), config.schedule.decay_start // 2)
    status, out, err = cli("plan", "--resume", study.path, "--flops", 0.3 * first.flops, "--json")
    assert status == 0, err
    names = " ".join(each["name"] for each in json.loads(out)["alternatives"])
    assert first.trunk in names
    assert later.trunk in names


def test_finished_runs_can_be_gone_on_with(cli, built, tmp_path):
    study = Study(studies.cut(built, tmp_path / "study", "fit").path)
    chosen = study.records("ladder")[-1]
    study.weights_path(chosen.id).write_bytes(b"")
    status, out, err = cli("plan", "--resume", study.path, "--flops", 0.05 * chosen.config.flops)
    assert status == 0, err
    first = out.splitlines()[1]
    assert first.startswith(f"continue run {chosen.id}")
    assert "a new model" in out
    assert "warm up again" in out
    assert "cannot go on with bare weights" in out
    assert not (study.path / "plan.json").exists()


def test_mistakes(refused, fit, study):
    assert "none was given" in refused(fit)
    assert "--resume STUDY" in refused()
    assert "unknown device 'abacus'" in refused(fit, "--device", "abacus", "--hours", "1")
    assert "needs --price" in refused(fit, "--device", "h100", "--cost", "100")
    assert "not flops and hours" in refused(fit, "--device", "h100", "--hours", "1", "--flops", "1e20")
    assert "needs a device" in refused(fit, "--hours", "1")
    assert "--flops" in refused(fit, "--flops", "-1e20")
    assert "--count must be" in refused(fit, "--flops", "1e20", "--device", "h100", "--count", "-1")
    assert "loss must be" in refused(fit, "--loss", "-2")
    assert "no compute reaches" in refused(fit, "--loss", "1.0")
    assert "less than one batch" in refused(fit, "--flops", "1e10")
    assert "pay for no model" in refused(fit, "--flops", "1e6")
    assert "less than one batch" in refused(fit, "--flops", "1e20", "--tokens-available", "10k")
    assert "unknown rule" in refused(fit, "--flops", "1e20", "--rule", "folklore")
    assert "--vocab" in refused(fit, "--flops", "1e20", "--vocab", "many")
    assert "whole number" in refused(fit, "--flops", "1e20", "--vocab", "1.5")
    assert "level" in refused(fit, "--flops", "1e20", "--level", "90")
    assert "leave out --rule" in refused(study.path, "--flops", "1e13", "--rule", "deepseek")
    assert "no run with weights" in refused("--resume", study.path, "--flops", "1e13")
    assert "not a study" in refused(fit, "--resume", fit.parent, "--flops", "1e13")


def test_a_damaged_state_is_told_and_the_one_before_taken(cli, planned, study):
    planned(study.path, "--flops", "3e13")
    config = RunConfig.parse(Plan.load(study.path / "plan.json").run)
    step = config.schedule.decay_start // 2
    save_state(study.trunk_path(config.trunk), step)
    damaged = save_state(study.trunk_path(config.trunk), step + 1)
    (damaged / "state.json").write_bytes(b"\x80\x04K\x01.")
    status, out, err = cli("plan", "--resume", study.path, "--flops", 0.3 * config.flops, "--json")
    assert status == 0, err
    assert f"step-{step + 1:08d}: damaged" in err
    assert json.loads(out)["alternatives"][0]["tokens_done"] == config.schedule.tokens_before(step)


def test_a_law_of_experts_plans_experts(planned, experts, tmp_path):
    out = tmp_path / "experts_plan.json"
    answer = planned(experts, "--flops", "1e20", "-o", out)
    assert answer["kind"] == "experts_plan"
    assert {each["num_experts"] for each in answer["choices"]} == {1, 2, 4, 8, 16, 32, 64}
    assert all(6 * each["active"] * each["tokens"] == pytest.approx(1e20) for each in answer["choices"])
    assert json.loads(out.read_text())["choices"] == answer["choices"]


def test_a_law_of_samples_plans_samples_for_a_loss(cli, planned, samples):
    answer = planned(samples, "--loss", "1.05", "--at", "model=large")
    assert answer["kind"] == "samples_plan"
    assert answer["samples"] == pytest.approx((12 / 0.15) ** (1 / 0.45), rel=0.2)
    status, out, err = cli("plan", samples, "--loss", "1.05", "--at", "model=large")
    assert status == 0
    assert out.startswith("a loss of 1.05 takes")
    assert "--at model=large" in err


@pytest.mark.parametrize(
    ("law", "options", "words"),
    [
        ("samples", ["--flops", "1e20"], "a law of samples plans for a loss"),
        ("samples", ["--loss", "1.2"], "give --at model=…"),
        ("samples", ["--loss", "1.2", "--at", "model=large", "--at", "depth=3"], "does not read depth"),
        (
            "samples",
            ["--loss", "1.2", "--at", "model=large", "--rule", "deepseek"],
            "--rule: for plans by a law of model",
        ),
        ("experts", ["--tokens", "10B"], "alone give every number of experts another compute"),
        ("experts", ["--flops", "1e20", "--at", "num_experts=4"], "--at is for a law of samples"),
        ("experts", ["--flops", "1e20", "--vocab", "32000"], "--vocab: for plans by a law of model size"),
        ("fit", ["--flops", "1e20", "--at", "model=large"], "--at is for a law of samples"),
    ],
)
def test_what_a_law_of_named_inputs_cannot_plan_is_refused(cli, request, law, options, words):
    status, out, err = cli("plan", request.getfixturevalue(law), *options)
    assert (status, out) == (2, "")
    assert words in err.splitlines()[-1]


def test_a_law_of_other_inputs_has_no_plan(cli, tmp_path):
    rate, depth = (axis.ravel() for axis in np.meshgrid((1e-4, 3e-4, 1e-3, 3e-3), (2, 4, 8, 16)))
    table = {"lr": rate, "depth": depth, "loss": 2 + np.log(rate / 1e-3) ** 2 / 50 + 1 / depth}
    path = tmp_path / "other.json"
    laws.save(path, laws.forecast(laws.Observations.read(table, target="loss", inputs=["lr", "depth"])))
    status, _, err = cli("plan", path, "--flops", "1e20")
    assert status == 2
    assert "a law that reads lr, depth has no plan" in err.splitlines()[-1]


def test_a_prediction_far_outside_the_runs_is_cautioned_or_refused(cli, experts):
    """On standard output too: the farthest of the inputs decides."""
    near = ["--at", "active_params=1e9", "--at", "num_experts=64", "--at", "tokens=8B"]
    status, out, _ = cli("predict", experts, *near)
    assert status == 0
    assert "caution" not in out
    far = ["--at", "active_params=1e12", *near[2:]]
    status, out, _ = cli("predict", experts, *far)
    assert status == 0
    assert out.splitlines()[0].startswith("caution: active_params lies 5e+03× outside the runs")
    assert json.loads(cli("predict", experts, *far, "--json")[1])["cautions"]
    status, out, err = cli("predict", experts, "--at", "active_params=1e15", *near[2:])
    assert (status, out) == (2, "")
    assert "more than 1e+06× is refused" in err.splitlines()[-1]
