"""The law of a ladder of sample counts: it predicts the next count, answers for a loss, or says why it cannot."""

from types import SimpleNamespace

import numpy as np
import pytest

from allometry.workflow.models.finetune_model import FineTuned, _law

COUNTS = (100, 200, 400, 800, 1600)


def law_of(losses, notes=None):
    records = [SimpleNamespace(tokens=count, loss=loss) for count, loss in zip(COUNTS, losses, strict=False)]
    return _law(records, (lambda note: None) if notes is None else lambda note: notes.append(note.text))


def truth(samples):
    return 1.5 + 8 / np.asarray(samples, float) ** 0.4


def test_the_next_counts_are_predicted():
    law = law_of(truth(COUNTS).tolist())
    predicted = law.predict({"samples": [3200.0, 6400.0]})
    assert predicted.value == pytest.approx(truth([3200, 6400]), rel=0.02)
    tuned = FineTuned(None, (), 3.0, law, None)
    assert tuned.samples_for(float(truth(3200))).samples == pytest.approx(3200, rel=0.3)
    assert "with the smallest run already" in tuned.samples_for(5.0)


def test_a_count_that_diverged_is_no_point_and_two_are_no_law():
    assert law_of([2.0, None, 1.9]) is None
    assert FineTuned(None, (), 3.0, None, None).samples_for(1.0) is None


def test_losses_that_do_not_change_give_no_law_and_say_so():
    notes = []
    assert law_of([2.0, 2.0, 2.0], notes) is None
    assert notes == ["no law of the samples: loss is 2 in every run: there is nothing to predict"]
