"""The coordinate check: slopes that are known, a plain model that drifts, a unit-scaled one that does not."""

import json
import math

import pytest
import torch
from torch import nn as plain

from allometry import nn
from allometry.nn.checks.coord_check import coord_check, slope
from allometry.nn.checks.coord_trace import few_rows

WIDTHS = (64, 128, 256)


def batch(rows=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 16, generator=generator), torch.randint(10, (rows,), generator=generator)


def standard(width):
    """A plain MLP: under Adam at one learning rate, the wider it is the more a step changes it."""
    layers = plain.Linear(16, width), plain.ReLU(), plain.Linear(width, width), plain.ReLU(), plain.Linear(width, 10)
    return plain.Sequential(*layers)


def unit_scaled(width):
    layers = nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Readout(width, 10)
    return plain.Sequential(*layers)


class Known(plain.Module):
    """Two activations whose change under a step of SGD is exactly lr·width^p and lr·width^q."""

    def __init__(self, width, p, q):
        super().__init__()
        self.width, self.powers = width, (p, q)
        self.weight = plain.Parameter(torch.zeros(()))
        self.first, self.second, self.last = (plain.Identity() for _ in range(3))

    def forward(self, x):
        for module, power in zip((self.first, self.second), self.powers, strict=True):
            module(self.weight * self.width**power + torch.ones(self.width))
        return self.last(self.weight.view(1) + 1)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=2**-6)


def known(p, q, **options):
    total = lambda output, targets: output.sum()
    data = torch.ones(1), torch.ones(1)
    check = lambda width: Known(width, p, q)
    return coord_check(check, (16, 32, 64), data, 2, loss=total, optimizer=sgd, seeds=(0,), **options)


def one(found, name):
    (row,) = [row for row in found.rows if row.name == name]
    return row


def test_the_slope_is_the_power():
    assert slope((2, 4, 8), [3 * width**0.7 for width in (2, 4, 8)]) == pytest.approx(0.7)
    x, y = torch.randn(2, 9).exp().double()
    design = torch.stack([torch.ones(9, dtype=torch.float64), x.log()], 1)
    assert slope(x.tolist(), y.tolist()) == pytest.approx(torch.linalg.lstsq(design, y.log()).solution[1].item())
    assert slope((2, 4), (0.0, 1.0)) is None
    assert slope((2, 4), (1.0, math.inf)) is None


def test_known_changes_and_slopes_are_found_at_every_step():
    found = known(0.5, -0.5)
    first, second = one(found, "first"), one(found, "second")
    assert first.slopes == pytest.approx((0.5, 0.5), abs=1e-4)
    assert second.slopes == pytest.approx((-0.5, -0.5), abs=1e-4)
    for row, power in ((first, 0.5), (second, -0.5)):
        for step, changes in enumerate(row.change, 1):
            assert changes == pytest.approx([2**-6 * step * width**power for width in (16, 32, 64)], rel=1e-4)
    assert first.value[0] == (1.0, 1.0, 1.0)
    assert (first.verdict, second.verdict) == ("grows", "shrinks")
    assert not found.ok
    assert found.failures == (first, second)


@pytest.mark.parametrize(("power", "ok"), [(0.24, True), (0.26, False), (-0.24, True), (-0.26, False)])
def test_the_tolerance_decides(power, ok):
    assert one(known(power, 0.0, tolerance=0.25), "first").ok is ok


def test_a_plain_model_drifts_where_its_hidden_weights_are():
    found = coord_check(standard, WIDTHS, batch(), lr=1e-3)
    assert not found.ok
    verdicts = {row.name: row.verdict for row in found.rows}
    assert verdicts["0"] == "ok"  # its fan-in does not change
    assert verdicts["2"] == verdicts["4"] == "grows"
    assert one(found, "2").slopes[0] > 0.6


def test_a_unit_scaled_model_does_not():
    found = coord_check(unit_scaled, WIDTHS, batch(), lr=0.03)
    assert found.ok, str(found)
    assert {row.name for row in found.rows} == {"0", "1", "2", "3", "4"}


def test_small_logits_and_a_slow_embedding_are_as_the_scheme_wants_them():
    def make(width):
        return plain.Sequential(
            nn.Embedding(32, width), nn.RMSNorm(width), nn.Linear(width, width), nn.Readout(width, 32)
        )

    generator = torch.Generator().manual_seed(1)
    data = torch.randint(32, (1, 4), generator=generator), torch.randint(32, (1, 4), generator=generator)
    found = coord_check(make, (64, 128, 256), data, lr=0.03)
    assert one(found, "0").slopes[0] == pytest.approx(-0.5, abs=0.05)
    assert one(found, "3").value_slopes[0] < -0.3
    assert found.ok, str(found)


def test_the_data_and_the_dropout_are_the_same_everywhere():
    seen = []

    class Noting(plain.Module):
        def __init__(self, width):
            super().__init__()
            self.linear, self.dropout = plain.Linear(16, width), plain.Dropout(0.5)
            self.last = plain.Linear(width, 10)

        def forward(self, x):
            seen.append((x, self.dropout(torch.ones(64))))
            return self.last(self.linear(x))

    coord_check(lambda width: (Noting(width), (torch.randn(4, 16), torch.randint(10, (4,)))), (8, 16), seeds=(0,))
    assert len(seen) == 2 * 5
    assert all(torch.equal(x, seen[0][0]) and torch.equal(mask, seen[0][1]) for x, mask in seen)


def test_it_repeats_itself_and_leaves_the_callers_generator_alone():
    state = torch.get_rng_state()
    first = coord_check(unit_scaled, (16, 32), batch(), steps=2)
    assert torch.equal(state, torch.get_rng_state())
    torch.randn(3)
    assert coord_check(unit_scaled, (16, 32), batch(), steps=2) == first
    assert coord_check(unit_scaled, (16, 32), batch(), steps=2, seeds=(5,)) != first


def test_a_model_that_is_given_is_left_as_it_was():
    models = {width: unit_scaled(width) for width in (16, 32)}
    before = {width: [p.clone() for p in model.parameters()] for width, model in models.items()}
    coord_check(models.__getitem__, (16, 32), batch(), seeds=(0,))
    for width, model in models.items():
        assert all(map(torch.equal, before[width], model.parameters()))
        assert not any(module._forward_hooks for module in model.modules())


def test_divergence_is_a_failure_of_its_own():
    found = coord_check(standard, (16, 32), batch(), optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=1e30))
    assert "non-finite" in {row.verdict for row in found.failures}
    assert "lower lr" in str(found)


def test_too_many_rows_are_named_as_a_cause_of_shrinking():
    found = known(-0.5, 0.0)
    assert "rows are more" not in str(found)
    crowded = coord_check(
        lambda width: Known(width, -0.5, 0.0),
        (16, 32),
        (torch.ones(40, 3), torch.ones(1)),
        loss=lambda output, targets: output.sum(),
        optimizer=sgd,
        seeds=(0,),
        rows=40,
    )
    assert "40 rows are more than width 16" in str(crowded)


def decoders(scheme="umup", rows=(1, 16), tied=False, norm="pre", lr=None):
    """The check of real decoders with four heads at every width, on random tokens."""

    def make(width):
        model = nn.Decoder(vocab_size=256, layers=2, width=width, heads=4, tied=tied, norm=norm)
        tokens = torch.randint(256, (rows[0], rows[1] + 1), generator=torch.Generator().manual_seed(0))
        return nn.parametrize(model, scheme), (tokens[:, :-1], tokens[:, 1:])

    return coord_check(make, (32, 64, 128), steps=2, seeds=(0, 1), lr=lr)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rows": (8, 64)},
        {"tied": True},
        {"scheme": "mup"},
        {"scheme": "completep", "rows": (8, 64)},
        {"scheme": "mus", "norm": "post"},
    ],
    ids=str,
)
def test_a_decoder_passes_under_every_scheme_that_transfers(options):
    found = decoders(**options)
    assert found.ok, str(found)
    assert found.batch_rows == 8
    assert {row.verdict for row in found.rows} <= {"ok", "inherits", "heads"}


def test_a_decoder_under_the_standard_parametrization_fails():
    found = decoders("sp")
    growing = [row.name for row in found.rows if row.verdict == "grows"]
    assert len(growing) > len(found.rows) / 2
    assert any("qkv" in name for name in growing)
    assert "grows: a learning rate tuned at one width is too high" in str(found)


def test_what_only_the_embedding_moves_inherits_its_slope_and_the_rest_does_not():
    found = decoders()
    inheriting = {row.name for row in found.rows if row.verdict == "inherits"}
    assert inheriting == {"embedding", "stack.blocks.0.attention.qkv(input)"}
    first = one(found, "stack.blocks.0.attention.qkv")
    assert first.parts["input"][-1] == pytest.approx(-0.5, abs=0.1)  # and alone it would drag this one down
    assert abs(first.parts["hidden"][-1]) < 0.2
    assert "inherits: it shrinks as the embedding's learning rate does" in str(found)


def test_a_rate_that_shrinks_with_the_width_fails_though_the_parts_are_told_apart():
    """Hidden weights at 1/width of u-μP's rate learn less and less."""

    def slow(model):
        groups = [{"params": [p], "lr": 0.3 / model.norm.normalized_shape} for p in model.parameters()]
        return torch.optim.Adam(groups)

    def make(width):
        tokens = torch.randint(256, (1, 17), generator=torch.Generator().manual_seed(0))
        model = nn.Decoder(vocab_size=256, layers=2, width=width, heads=width // 16)
        return model, (tokens[:, :-1], tokens[:, 1:])

    found = coord_check(make, (32, 64, 128), steps=2, seeds=(0, 1), optimizer=slow)
    assert one(found, "stack.blocks.1.mlp.up").verdict == "shrinks"


def test_few_rows_of_a_batch_are_whole_samples_and_of_a_sequence_its_beginning():
    tokens = torch.arange(6 * 50).view(6, 50)
    inputs, targets = few_rows((tokens, tokens + 1), 8)
    assert torch.equal(inputs, tokens[:1, :8])
    assert torch.equal(targets, tokens[:1, :8] + 1)
    inputs, targets = few_rows((tokens[:, :4], tokens[:, :4]), 8)
    assert inputs.shape == (2, 4)
    images, labels = few_rows((torch.randn(64, 3, 5, 5), torch.arange(64)), 8)
    assert (images.shape, labels.shape) == ((1, 3, 5, 5), (1,))  # fifteen rows of a convolution's input each
    features = few_rows({"x": torch.randn(64, 7), "y": torch.arange(64)}, 8)
    assert len(features["x"]) == len(features["y"]) == 8


def test_it_shows_itself_as_text_html_and_json():
    found = coord_check(standard, (16, 32), batch(), steps=1, seeds=(0,))
    assert json.loads(json.dumps(found.to_dict()))["ok"] is found.ok
    lines = str(found).splitlines()
    assert lines[0].startswith("Sequential: ")
    assert max(map(len, lines)) <= 100
    assert found._repr_html_().count("<tr") == 1 + len(found.rows)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"widths": (64,)}, "widths: "),
        ({"widths": (64, 64)}, "widths: "),
        ({"steps": 0}, "steps: 0"),
        ({"seeds": ()}, "seeds: none"),
        ({"tolerance": 0}, "tolerance: 0"),
        ({"batch": None}, "batch: none"),
        ({"batch": torch.randn(4, 16)}, "loss: there is none"),
        ({"make_model": lambda width: (1, 2, 3, 4)}, "make_model: returned 4"),
        ({"make_model": lambda width: "model"}, "model: str"),
    ],
)
def test_wrong_arguments_are_named(options, says):
    given = {"make_model": standard, "widths": (16, 32), "batch": batch(), "seeds": (0,)} | options
    with pytest.raises((ValueError, TypeError), match=says):
        coord_check(**given)


def test_models_of_other_shape_are_refused():
    def other(width):
        return plain.Sequential(*(plain.Linear(16, 16) for _ in range(width // 16)), plain.Linear(16, 10))

    with pytest.raises(ValueError, match="make_model: width 32 has other activations"):
        coord_check(other, (16, 32), batch(), seeds=(0,))
