"""A study whose small files are damaged: the report names the file and the field, and what to do; no traceback."""

import pytest

from allometry.errors import UserError
from allometry.files import write_json
from allometry.planning import Plan
from allometry.report.study_contents import OF_CORPUS, OF_LADDER, OF_RECIPE, OF_SAMPLE, StudyContents
from allometry.report.tables import recipe
from helpers.studies import cut

NEEDED = {"recipe.json": OF_RECIPE, "sample.json": OF_SAMPLE, "ladder.json": OF_LADDER}
NEEDED["corpus/manifest.json"] = OF_CORPUS
GONE = object()


@pytest.mark.parametrize("name", NEEDED)
def test_a_field_that_is_missing_or_of_another_kind_is_named(study, tmp_path, name):
    copy = cut(study, tmp_path / "study", "outcome")
    (copy.path / "fit.json").unlink()  # the longest to read, and not asked here
    stored = copy.read(name)
    for key in NEEDED[name]:
        for wrong in (GONE, None, True, {"x": 1}):
            if wrong is GONE and key == "reference_tokens":
                continue  # the recipe of a program has none
            damaged = {field: value for field, value in stored.items() if field != key}
            write_json(copy.path / name, damaged if wrong is GONE else damaged | {key: wrong})
            with pytest.raises(UserError, match=f"{name}: {key} is missing or damaged"):
                StudyContents.of(copy)
    write_json(copy.path / name, stored)
    StudyContents.of(copy)


def test_a_plan_with_one_end_of_its_interval_or_without_a_model_is_none(contents):
    record = contents.plan.to_json()
    for change in ({"high": None}, {"low": None}, {"model": "large"}, {"run": ["x"]}):
        with pytest.raises(UserError, match="not a plan"):
            Plan.from_json(record | change)


def test_evidence_of_another_kind_is_left_out(contents):
    assert recipe(contents.recipe | {"evidence": "none"}).rows
