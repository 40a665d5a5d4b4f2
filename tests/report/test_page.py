"""The page: complete at every stage, with the numbers of the records; no scripts, no network, all text escaped."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from allometry import laws, planning
from allometry.config.external import ExternalRun
from allometry.errors import UserError
from allometry.quantities import format_count
from allometry.report import write_report
from allometry.report.html import EVERY_PAGE, POLICY, packaged, policy
from allometry.report.question import LAW_SCRIPTS
from allometry.runs.next_step import next_step
from allometry.runs.record import RunRecord
from allometry.runs.study import Study
from helpers.pages import read
from helpers.studies import STAGES, build, cut, true_loss

HOSTILE = "</script></style></pre><img src=x onerror=alert(1)>{{ 7*7 }}`$x$`&amp;\"'"
SCRIPTS = (*LAW_SCRIPTS, *EVERY_PAGE)


@pytest.fixture(scope="module")
def page(study):
    return read(write_report(study))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_its_parts_and_names_what_is_missing(study, tmp_path, stage):
    at = STAGES.index(stage)
    page = read(write_report(cut(study, tmp_path / "study", stage)))
    sections = [attrs["id"] for attrs in page.all("section")]
    expected = {
        "ask": 2,
        "sizes": 1,
        "plan": 3,
        "law": 2,
        "recipe": 1,
        "training": 1,
        "sample": 4,
        "runs": 1,
        "origin": 0,
    }
    assert sections == [name for name, first in expected.items() if at >= first]
    assert len(page.all("figure")) == [0, 4, 6, 7, 7][at]
    text = page.words["main"]
    assert ("7 of 15 runs" in text) == (stage == "runs")
    assert ("allometry fit STUDY" in text) == (at < 2)
    assert ("allometry plan STUDY" in text) == (at < 3)
    assert ("allometry train STUDY" in text) == (stage == "plan")
    assert ("Still missing" in text) == (at < 4)


def test_the_page_runs_our_scripts_alone_and_loads_nothing(study, page):
    assert page.tags[0][0] == "html"
    ours = [packaged("scripts", name) for name in SCRIPTS]
    assert {"http-equiv": "Content-Security-Policy", "content": policy(ours)} in page.all("meta")
    assert "default-src 'none'" in POLICY
    assert "'unsafe" not in policy(ours).replace("style-src 'unsafe-inline'", "")
    assert not [text for text in ours if "</script" in text or "<!--" in text]
    assert page.all("script") == [{"type": "application/json", "id": "ask-data"}, *({} for _ in ours)]
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"iframe", "object", "embed", "base"}
    for _, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert attrs.get(name, "#").startswith(("data:", "#"))
    text = (study.path / "report.html").read_text(encoding="utf-8")
    for script in ours:
        text = text.replace(script, "")
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", re.sub(r"data:[^\"]*|\"f8\":\"[^\"]*", "", text))


def test_pictures_have_an_alternative_text_ids_of_their_own_and_points_that_say_what_they_are(study, page):
    plots = [attrs for attrs in page.all("svg") if attrs["class"].startswith("plot")]
    assert len(plots) == 2 * len(page.all("figure"))
    for attrs in plots:
        assert attrs["role"] == "img"
        assert len(attrs["aria-label"]) > 40
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["xlink:href"] for _, attrs in page.tags if "xlink:href" in attrs]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    for record in study.records():
        if record.status == "finished":
            assert page.words["title"].count(record.id) >= 2
            assert f"{record.id}: {format_count(record.num_params)} parameters" in page.words["title"]


def test_rows_are_the_records(study, page):
    rows = {row[0]: row for row in page.cells if row}
    for record in study.records():
        row = rows[record.id]
        assert row[1] == record.kind
        assert row[9] == f"{record.seconds:.1f}"
        if record.status == "finished":
            assert row[7:9] == [f"{record.loss:.4f}", f"{record.loss_se:.4f}"]
            assert row[10] == "finished"
        else:
            assert row[10] == f"diverged: {record.note}"
    exact = {attrs["title"] for attrs in page.all("td") if "title" in attrs}
    assert {repr(r.loss) for r in study.records() if r.loss is not None} <= exact
    assert {f"{r.config.tokens:,}" for r in study.records()} <= exact
    assert [attrs for tag, attrs in page.tags if tag == "tr" and attrs.get("class") == "diverged"]


def test_verdict_plan_and_law_agree_with_the_files(study, contents, page):
    outcome, plan = study.read("outcome.json"), contents.plan
    for text in (page.words["p"], page.words["dl"]):
        assert f"{outcome['predicted']:.4f}" in text
        assert f"{outcome['actual']:.4f}" in text
        assert f"{abs(outcome['relative_error']):.2%}" in text
        assert f"{outcome['compute_ratio']:.3g}" in text
        assert f"{outcome['ladder_share']:.1%}" in text
    rows = {row[0]: row[1:] for row in page.cells if row}
    assert rows["learning rate"] == [f"{plan.lr:.3g}"]
    assert rows["predicted loss"] == [f"{plan.loss:.4f}"]
    assert rows["fingerprint"] == [study.read("corpus/manifest.json")["fingerprint"]]
    for name, weight in contents.predictor.weights.items():
        assert f"{weight:.3f}" in next(row for row in page.cells if row and row[0] == name)
        for value in contents.predictor.fits[name].values.values():
            assert any(f"{value:.5g}" in row for row in page.cells)
    assert contents.target.id in page.words["section"]


def test_hostile_text_stays_text(tmp_path):
    study = build(tmp_path / "study", source=HOSTILE, note=HOSTILE, sample=HOSTILE + "\x00\x1b[31m\u202e", word=HOSTILE)
    path = write_report(study)
    page = read(path)
    text = path.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert len(page.all("figure")) == 7
    assert len(page.all("script")) == 1 + len(SCRIPTS)
    assert page.words["pre"].startswith("def " + HOSTILE)
    assert page.words["pre"].endswith("\u2400\u241b[31m\ufffd")
    assert HOSTILE in page.words["h1"]
    assert page.words["td"].count(HOSTILE) >= 3  # the run's note, the text's source, the machine
    assert not page.all("img")


def test_lone_surrogates_of_a_byte_model_do_not_stop_the_report(study, tmp_path):
    copy = cut(study, tmp_path / "study", "empty")
    copy.write("sample.json", study.read("sample.json") | {"text": "def \ud83d broken"})
    assert "def \ufffd broken" in read(write_report(copy)).words["pre"]


@pytest.mark.usefixtures("page")
def test_same_study_same_bytes(study, tmp_path):
    before = (study.path / "report.html").read_bytes()
    path = write_report(study, tmp_path / "folder" / "other.html")
    assert path == tmp_path / "folder" / "other.html"
    assert path.read_bytes() == before


def test_the_old_report_stays_when_a_new_one_fails(study, tmp_path, monkeypatch):
    copy = cut(study, tmp_path / "study", "empty")
    path = write_report(copy)
    before, names = path.read_bytes(), sorted(p.name for p in copy.path.iterdir())
    monkeypatch.setattr("allometry.files.os.replace", _full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(copy)
    monkeypatch.undo()
    (copy.path / "fit.json").write_text('{"kind": "forecast", ')
    with pytest.raises(UserError, match=r"fit\.json"):
        write_report(copy)
    assert path.read_bytes() == before
    assert sorted(p.name for p in copy.path.iterdir()) == sorted([*names, "fit.json"])


def test_a_law_without_the_newest_runs_and_without_refits_is_reported_as_such(study, tmp_path):
    copy = cut(study, tmp_path / "study", "fit")
    fit = laws.fit("power", laws.Observations.from_records(copy.rows()[:9]), bootstrap=0)
    copy.write("fit.json", fit.to_json())
    page = read(write_report(copy))
    stale = f"The law was fitted to {fit.num_runs} runs, and 14 of the ladder have finished"
    assert stale in page.words["main"]
    assert page.all("section")[0]["id"] == "ask"
    for words in (page.words["p"], page.words["td"]):
        assert "nan" not in words.lower()


def test_a_study_whose_runs_all_diverged_has_a_page_that_says_so(study, tmp_path):
    copy = cut(study, tmp_path / "study", "runs")
    for record in copy.records():
        copy.save(replace(record, status="diverged", loss=None, loss_se=None, note="loss not finite"), [])
    page = read(write_report(copy))
    assert "7 of them diverged" in page.words["p"]
    assert not page.all("figure")
    assert "No law can be fitted yet" in page.words["p"]


def test_runs_that_were_trained_elsewhere_have_a_law_to_ask(tmp_path):
    study = Study.collect(tmp_path / "study")
    for size in (1_000_000, 4_000_000, 16_000_000):
        for tokens in (20_000_000, 100_000_000, 500_000_000):
            run = ExternalRun(trained_by="recorder", name=HOSTILE, num_params=size, counted="total", tokens=tokens)
            loss = float(true_loss(size, tokens))
            study.save(
                RunRecord(run, "ladder", "finished", loss, None, loss, 0.0, 0.0, 0.0, "2026-01-02T03:04:05+00:00"), []
            )
    words = read(write_report(study)).words["main"]
    assert "with 16M parameters on 500M tokens. No law has been fitted yet" in words
    fit = laws.fit("chinchilla", laws.Observations.read(study.path), bootstrap=0)
    study.write("fit.json", fit.to_json())
    study.write("plan.json", planning.plan(fit, planning.Budget(flops=1e18)).to_json())
    assert next_step(study.path) == ["allometry", "report", str(study.path)]
    page = read(write_report(study))
    words = page.words["main"]
    assert "names no run to train here" in words
    assert "allometry train STUDY" not in words
    assert "(parameters: total), FLOPs 6·N·D" in words
    assert "share a trunk" not in words
    assert page.all("section")[0]["id"] == "ask"
    assert "step_law" in page.words["script"]
    for record in study.records():
        assert f"{record.id}: " in page.words["title"]


def test_the_room_needs_no_torch_and_its_tables_no_matplotlib():
    code = (
        "import sys, allometry.report; assert not {'torch', 'matplotlib', 'rich'} & set(sys.modules); "
        "import allometry.report.pictures.study_drawn; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _full_disk(*_):
    raise OSError(28, "No space left on device")


def test_the_contents_lead_to_every_section(page):
    targets = [attrs["href"].removeprefix("#") for attrs in page.all("a")]
    sections = [attrs["id"] for attrs in page.all("section") if "hidden" not in attrs]
    assert targets == sections
    assert len(targets) >= 5
