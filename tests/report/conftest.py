"""One whole study for all tests of the room; a test that changes it takes a copy."""

import pytest

from allometry.report.study_contents import StudyContents
from helpers.chromium import Chromium
from helpers.studies import build


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    return build(tmp_path_factory.mktemp("report") / "study")


@pytest.fixture(scope="session")
def contents(study):
    return StudyContents.of(study)


@pytest.fixture(scope="module")
def browser():
    with Chromium() as chromium:
        yield chromium
