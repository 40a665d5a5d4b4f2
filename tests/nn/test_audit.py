"""The audit: exact statistics, verdicts that name the right tensors, and a model that is left as it was."""

import json
import math
import random
import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn as plain
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from allometry import nn
from allometry.nn.checks.audit import audit
from allometry.nn.checks.probe import Statistics


class Say(plain.Module):
    """Returns what it was built with, whatever comes in."""

    def __init__(self, *values, **named):
        super().__init__()
        self.values = tuple(values) or named

    def forward(self, x):
        if isinstance(self.values, dict):
            return {key: value + 0 * x.sum() for key, value in self.values.items()}
        return tuple(value + 0 * x.sum() for value in self.values)


class Tail(plain.Module):
    """``inner`` and a last map after it, so that what ``inner`` returns is no output of the model."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.last = plain.Linear(4, 4)

    def forward(self, x):
        y = self.inner(x)
        return self.last(torch.zeros(1, 4)) + sum(z.sum() for z in (y.values() if isinstance(y, dict) else y))


class Ours(plain.Module):
    def __init__(self, width=64):
        super().__init__()
        self.embedding = nn.Embedding(32, width)
        self.mlp = nn.MLP(width, 2 * width)
        self.norm = nn.RMSNorm(width)
        self.readout = nn.Readout(width, 32)

    def forward(self, tokens):
        return self.readout(self.norm(self.mlp(self.embedding(tokens))))


def mlp(std=None):
    model = plain.Sequential(
        plain.Linear(64, 64), plain.ReLU(), plain.Linear(64, 64), plain.ReLU(), plain.Linear(64, 8)
    )
    if std is not None:
        for layer in model[::2]:
            plain.init.normal_(layer.weight, std=std)
            plain.init.zeros_(layer.bias)
    return model


def classes(rows=128):
    return torch.randn(rows, 64), torch.randint(8, (rows,))


def tokens():
    return torch.randint(32, (8, 16)), torch.randint(32, (8, 16))


def row(found, kind, name, step=0):
    (only,) = [one for one in found.rows if (one.kind, one.name, one.step) == (kind, name, step)]
    return only


def verdicts(found, kind):
    return {one.name: one.verdict for one in found.rows if one.kind == kind and one.step == 0}


# ------------------------------------------------------------------------------------------------ what is measured


def test_the_shares_and_moments_of_a_constructed_tensor_are_exact():
    # E4M3: to zero at and below 2^-10, beyond 448 (464 is the tie); E5M2: 2^-17 and 57344 (61440); FP16: 2^-25, 65504.
    values = [0.0, 0.0, 1.0, -1.0, 2.0**-10, 2.0**-11, 2.0**-18, 2.0**-26, 500.0, -70_000.0, math.nan, math.inf]
    found = audit(Tail(Say(torch.tensor(values))), torch.ones(3))
    one = row(found, "activation", "inner[0]")
    assert (one.nonfinite, one.zeros) == (2, 0.2)
    assert one.underflow == {"E4M3": 4 / 8, "E5M2": 2 / 8, "FP16": 1 / 8, "BF16": 0.0}
    assert one.overflow == {"E4M3": 2 / 8, "E5M2": 1 / 8, "FP16": 1 / 8, "BF16": 0.0}
    finite = torch.tensor(values[:-2], dtype=torch.float64)
    assert one.largest == 70_000
    assert one.mean == pytest.approx(finite.mean().item())
    assert one.std == pytest.approx(finite.std(correction=0).item())
    assert one.rms == pytest.approx(finite.square().mean().sqrt().item())
    assert one.verdict == "non-finite"


def test_activations_and_gradients_are_those_of_autograd():
    model, (x, y) = mlp(), classes()
    found = audit(model, (x, y))
    hidden = model[1](model[0](x))
    hidden.retain_grad()
    F.cross_entropy(model[4](model[3](model[2](hidden))), y).backward()
    rms = lambda tensor: tensor.double().square().mean().sqrt().item()
    assert row(found, "activation", "1").rms == pytest.approx(rms(hidden.detach()))
    assert row(found, "activation gradient", "1").rms == pytest.approx(rms(hidden.grad))
    assert row(found, "parameter", "2.weight").rms == pytest.approx(rms(model[2].weight.detach()))
    assert row(found, "parameter gradient", "2.weight").rms == pytest.approx(rms(model[2].weight.grad))
    assert found.value == pytest.approx(F.cross_entropy(model(x), y).item())
    kinds = [one.kind for one in found.rows]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "activation": 6,
        "activation gradient": 5,
        "parameter": 6,
        "parameter gradient": 6,
    }


def test_an_in_place_operation_does_not_hide_what_it_overwrites():
    apart, inplace = mlp(), mlp()
    inplace[1] = plain.ReLU(inplace=True)
    inplace.load_state_dict(apart.state_dict())
    batch = classes()
    assert audit(apart, batch).to_dict()["rows"] == audit(inplace, batch).to_dict()["rows"]


def test_tuples_and_dicts_are_named_by_place_and_containers_are_not_counted_twice():
    names = [one.name for one in audit(Tail(Say(a=torch.ones(2), b=torch.ones(3))), torch.ones(3)).rows]
    assert {"inner[a]", "inner[b]"} <= set(names)
    nested = plain.Sequential(plain.Sequential(plain.Linear(64, 64)))
    assert list(verdicts(audit(nested, torch.randn(32, 64)), "activation")) == ["(input)", "0.0"]


def test_a_module_that_is_called_often_is_one_row_of_all_its_calls():
    class Loop(plain.Module):
        def __init__(self):
            super().__init__()
            self.layer = plain.Linear(16, 16)

        def forward(self, x):
            return self.layer(self.layer(self.layer(x)))

    model, x = Loop(), torch.randn(8, 16)
    found = audit(model, x)
    first = model.layer(x)
    second = model.layer(first)
    each = torch.stack([first, second, model.layer(second)]).detach().double()
    one = row(found, "activation", "layer")
    assert one.calls == 3
    assert one.rms == pytest.approx(each.square().mean().sqrt().item())
    assert row(found, "activation gradient", "layer").calls == 3


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_no_row(reentrant):
    class Saved(plain.Module):
        def __init__(self, inner, saving):
            super().__init__()
            self.first, self.inner, self.saving = plain.Linear(64, 64), inner, saving

        def forward(self, x):
            x = self.first(x)
            return checkpoint(self.inner, x, use_reentrant=reentrant) if self.saving else self.inner(x)

    model, batch = Saved(mlp(), False), classes()
    expected = audit(model, batch)
    model.saving = True
    rows = lambda found: {(one.kind, one.name): (one.rms, one.calls) for one in found.rows}
    assert (
        rows(audit(model, batch)).items()
        >= {key: value for key, value in rows(expected).items() if not (reentrant and key[1] == "inner.4")}.items()
    )


def test_tied_weights_are_one_parameter_with_the_gradient_of_both_uses():
    class Tied(plain.Module):
        def __init__(self):
            super().__init__()
            self.embedding = plain.Embedding(32, 16)
            self.head = plain.Linear(16, 32, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x):
            return self.head(self.embedding(x))

    model, batch = Tied(), tokens()
    found = audit(model, batch)
    F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten()).backward()
    (one,) = [one for one in found.rows if one.kind == "parameter gradient"]
    assert one.rms == pytest.approx(model.head.weight.grad.double().square().mean().sqrt().item())


def test_a_sparse_gradient_is_measured():
    model = plain.Sequential(plain.Embedding(10, 4, sparse=True), plain.Linear(4, 3))
    found = audit(model, (torch.tensor([1, 2, 2]), torch.tensor([0, 1, 2])))
    assert row(found, "parameter gradient", "0.weight").rms > 0


# ------------------------------------------------------------------------------------------------------- verdicts


def test_our_model_passes_and_stays_in_range_after_training():
    found = audit(Ours(), tokens(), steps=5)
    assert found.ok, str(found)
    assert found.failures == ()
    assert {one.step for one in found.rows} == {0, 5}
    assert row(found, "parameter", "mlp.down.weight", 5).rms != row(found, "parameter", "mlp.down.weight").rms
    assert row(found, "parameter", "readout.weight").ok
    # The logits start small on purpose; they are the only tensor that may.
    assert row(found, "activation", "readout").rms == pytest.approx(64**-0.5, rel=0.2)
    assert row(found, "activation gradient", "readout").rms == pytest.approx(1, rel=0.2)


def test_a_tiny_initialisation_fails_where_it_is_tiny():
    found = audit(mlp(std=0.01), classes())
    forward = verdicts(found, "activation")
    assert forward == {
        "(input)": "ok",
        "0": "too small",
        "1": "too small",
        "2": "too small",
        "3": "too small",
        "4": "ok",
    }
    weights = verdicts(found, "parameter")
    assert [name for name, verdict in weights.items() if verdict == "too small"] == ["0.weight", "2.weight", "4.weight"]
    assert set(verdicts(found, "activation gradient").values()) == {"too small"}
    assert "nn.Linear" in row(found, "activation", "0").advice
    assert row(found, "activation", "1").advice == "caused by 0; fix that first"
    assert "CrossEntropyLoss" in row(found, "activation gradient", "4").advice


def test_one_bad_layer_among_good_ones_is_the_one_that_is_named():
    model = plain.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
    assert audit(model, torch.randn(256, 64)).ok
    plain.init.normal_(model[2].weight, std=20)
    found = audit(model, torch.randn(256, 64))
    expected = {"(input)": "ok", "0": "ok", "1": "ok", "2": "too large", "3": "too large"}
    assert verdicts(found, "activation") == expected  # the model's output may be small, but not large
    assert row(found, "activation", "3").advice == "caused by 2; fix that first"
    assert verdicts(found, "parameter")["2.weight"] == "too large"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        (torch.full((100,), 1.0), "ok"),
        (torch.full((100,), 0.124), "too small"),
        (torch.full((100,), 0.126), "ok"),
        (torch.full((100,), 8.1), "too large"),
        (torch.tensor([1.0] * 9999 + [500.0]), "overflow"),
        (torch.tensor([1.0] * 9999 + [460.0]), "ok"),  # rounds to 448
        (torch.tensor([1.0] * 94 + [1e-4] * 6), "underflow"),
        (torch.tensor([1.0] * 96 + [1e-4] * 4), "ok"),
        (torch.tensor([1.0] * 50 + [0.0] * 50), "ok"),  # zero already
        (torch.zeros(100), "all zero"),
        (torch.tensor([1.0] * 99 + [math.inf]), "non-finite"),
        (torch.tensor([1e-9]), "ok"),  # a single number has no scale
    ],
)
def test_each_verdict_at_its_threshold(values, verdict):
    one = row(audit(Tail(Say(values)), torch.ones(3)), "activation", "inner[0]")
    assert one.verdict == verdict
    assert bool(one.advice) == (verdict != "ok")


def test_the_first_tensor_that_is_not_finite_is_named_by_all_that_follow():
    model = mlp()
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    found = audit(model, classes())
    assert [one.name for one in found.rows if one.nonfinite][:3] == ["2.weight", "2", "3"]
    assert row(found, "parameter", "2.weight").advice.startswith("the first that is not finite")
    assert "caused by parameter 2.weight" in row(found, "activation", "2").advice


def test_dead_and_unused_parameters_fail_and_frozen_ones_do_not():
    class Model(plain.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.frozen = (nn.Linear(16, 16) for _ in range(3))
            self.cut = nn.Linear(16, 16)
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.used(self.frozen(x)) + 0 * self.cut(x)

    found = audit(Model(), torch.randn(64, 16))
    gradients = verdicts(found, "parameter gradient")
    assert gradients == {"used.weight": "ok", "unused.weight": "no gradient", "cut.weight": "all zero"}
    assert "requires_grad_(False)" in row(found, "parameter gradient", "unused.weight").advice


def test_biases_and_gains_are_free_since_no_gemm_reads_them():
    model = plain.Sequential(nn.Linear(64, 64, bias=True), plain.LayerNorm(64), nn.Linear(64, 64))
    with torch.no_grad():
        model[0].bias.fill_(1e-4)
        model[1].weight.fill_(50.0)
    weights = verdicts(audit(model, torch.randn(256, 64)), "parameter")
    assert (weights["0.bias"], weights["1.weight"]) == ("ok", "ok")


def test_a_readouts_weight_may_grow_and_a_hidden_one_may_not():
    model = Ours()
    with torch.no_grad():
        model.readout.weight.mul_(12)
        model.mlp.down.weight.mul_(12)
    weights = verdicts(audit(model, tokens()), "parameter")
    assert (weights["readout.weight"], weights["mlp.down.weight"]) == ("ok", "too large")


def test_thresholds_can_be_moved():
    batch = classes()
    assert audit(mlp(), batch, healthy=(0, 8), underflow=1).ok
    strict = audit(Ours(), tokens(), healthy=(0.99, 1.01))
    assert not strict.ok


def test_the_gradient_is_judged_in_e5m2_and_the_value_in_e4m3():
    class Loud(plain.Module):
        def __init__(self, forward, backward):
            super().__init__()
            self.inner, self.forward_, self.backward_ = plain.Identity(), forward, backward
            self.weight = plain.Parameter(torch.ones(1000))

        def forward(self, x):
            return nn.scale(self.inner(nn.scale(self.weight, self.forward_)), 1 / self.forward_, self.backward_)

    value = lambda found: row(found, "activation", "inner").verdict
    gradient = lambda found: row(found, "activation gradient", "inner").verdict
    loss = lambda output: output.sum()
    wide = {"healthy": (0, 1e9)}
    assert value(audit(Loud(1000.0, 1.0), torch.ones(2), loss, **wide)) == "overflow"
    assert gradient(audit(Loud(1.0, 1000.0), torch.ones(2), loss, **wide)) == "ok"
    assert gradient(audit(Loud(1.0, 1e5), torch.ones(2), loss, **wide)) == "overflow"
    # The upper limit is 8 for values and 8·57344/448 for gradients.
    assert gradient(audit(Loud(1.0, 1000.0), torch.ones(2), loss)) == "ok"
    assert gradient(audit(Loud(1.0, 1100.0), torch.ones(2), loss)) == "too large"
    assert gradient(audit(Loud(1.0, 1e-6), torch.ones(2), loss, **wide)) == "underflow"


# ------------------------------------------------------------------------------------------------- batch and loss


def test_how_the_loss_is_found():
    x, y = classes()
    assert audit(mlp(), (x, y)).loss == "mean cross-entropy"
    assert audit(Ours(), tokens()).loss == "cross-entropy, unit-scaled"
    assert audit(mlp(), (x, torch.randn(128, 8))).loss == "mean squared error"
    assert audit(mlp(), x).loss == "unit-normal gradient on the output"
    assert audit(mlp(), {"input": x}).loss == "unit-normal gradient on the output"
    assert audit(mlp(), (x, y), lambda output, targets: output.mean()).loss == "given"

    class WithLoss(Ours):
        def loss(self, inputs, targets):
            return self(inputs).square().mean()

    assert audit(WithLoss(), tokens()).loss == "model.loss"

    class Scalar(Ours):
        def forward(self, tokens, targets=None):
            logits = super().forward(tokens)
            return logits if targets is None else (logits, logits.square().mean())

    both = dict(zip(("tokens", "targets"), tokens(), strict=True))
    assert audit(Scalar(), both).loss == "the scalar that the model returns"


def test_without_a_loss_the_outputs_gradient_is_a_unit_normal_that_the_seed_sets():
    x = torch.randn(512, 64)
    found = audit(mlp(), x)
    one = row(found, "activation gradient", "4")
    assert one.rms == pytest.approx(1, abs=0.05)
    assert abs(one.mean) < 0.05
    assert found.value is None
    model = mlp()
    rms = lambda seed: row(audit(model, x, seed=seed), "activation gradient", "4").rms
    assert rms(1) == rms(1) != rms(2)


def test_classes_may_stand_second_as_torch_has_them():
    model = plain.Conv1d(4, 6, 1)
    found = audit(model, (torch.randn(3, 4, 5), torch.randint(6, (3, 5))))
    assert found.loss == "mean cross-entropy"


def test_a_frozen_model_is_measured_forward():
    model = mlp().requires_grad_(False)
    with torch.no_grad():
        found = audit(model, classes())
    assert {one.kind for one in found.rows} == {"activation", "parameter"}


@pytest.mark.parametrize("surround", [torch.no_grad, torch.inference_mode])
def test_gradients_are_measured_within_no_grad(surround):
    model, batch = mlp(), classes()
    with surround():
        found = audit(model, batch)
    assert row(found, "parameter gradient", "0.weight").rms > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((mlp(), 3), "batch: int"),
        ((mlp(), (1, 2, 3)), "batch: tuple of 3"),
        ((mlp(), torch.randn(2, 64), 5), "loss: int"),
        ((mlp(), torch.randn(2, 64), lambda output: output), "loss: returned no scalar"),
        ((mlp(), (torch.randn(2, 64), torch.zeros(5, 5, dtype=torch.long))), "batch: targets of shape"),
        ((mlp(), torch.randn(2, 64), None, -1), "steps: -1"),
        ((mlp(), torch.randn(2, 64), None, 2), "steps: there is no loss"),
        ((plain.Linear(2, 2, device="meta"), torch.randn(2, 2)), "model: weight holds no values"),
        ((plain.LazyLinear(2), torch.randn(2, 2)), "model: weight holds no values"),
        (("model", torch.randn(2, 2)), "model: str"),
    ],
)
def test_wrong_arguments_are_named(arguments, says):
    with pytest.raises((ValueError, TypeError), match=re.escape(says)):
        audit(*arguments)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"healthy": (2, 1)}, "healthy"), ({"healthy": 3}, "healthy"), ({"underflow": 2}, "underflow")],
)
def test_wrong_limits_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        audit(mlp(), classes(), **options)


# ---------------------------------------------------------------------------------------------------- left as it was


class Fragile(plain.Module):
    """Everything that a pass can change: running statistics, dropout, replaced buffers, modes, an own gradient."""

    def __init__(self):
        super().__init__()
        self.linear = plain.Linear(64, 64)
        self.batch_norm = plain.BatchNorm1d(64)
        self.dropout = plain.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("cache", None)
        self.raising = 0

    def forward(self, x):
        self.calls = self.calls + 1
        self.cache = x
        random.random()
        x = self.dropout(self.batch_norm(self.linear(x)))
        if self.raising and self.calls >= self.raising:
            self.dropout.eval()
            raise RuntimeError("broken")
        return x


def snapshot(model):
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._forward_hooks_with_kwargs))
        for m in model.modules()
    ]
    tensors = {name: (id(t), t.detach().clone()) for name, t in model.state_dict(keep_vars=True).items()}
    grads = {name: (id(p.grad), None if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()}
    modes = [m.training for m in model.modules()]
    return hooks, tensors, grads, modes, model.cache, torch.get_rng_state(), random.getstate()


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("raising", [0, 1, 3])
def test_the_model_is_left_bit_for_bit_as_it_was(steps, raising):
    model = Fragile()
    model.linear.weight.grad = torch.randn(64, 64)
    with torch.no_grad():
        model.linear.weight[0, 0] = math.nan if raising == 1 else 2.0
    model.batch_norm.eval()
    model.raising = raising
    before = snapshot(model)
    if raising and raising <= (1 if not steps else 5):
        with pytest.raises(RuntimeError, match="broken"):
            audit(model, (torch.randn(16, 64), torch.randint(64, (16,))), steps=steps)
    else:
        audit(model, (torch.randn(16, 64), torch.randint(64, (16,))), steps=steps)
    torch.set_rng_state(before[5])  # drawn by the test itself
    after = snapshot(model)
    assert before[0] == after[0]
    for one, other in ((before[1], after[1]), (before[2], after[2])):
        assert one.keys() == other.keys()
        for name, (identity, value) in one.items():
            assert identity == other[name][0], name
            assert value is None or torch.equal(value.nan_to_num(7.0), other[name][1].nan_to_num(7.0)), name
    assert before[3] == after[3]
    assert after[4] is None
    assert before[6] == after[6]


def test_no_random_number_of_the_caller_is_used():
    model, batch = Fragile(), (torch.randn(16, 64), torch.randint(64, (16,)))
    before = torch.get_rng_state()
    audit(model, batch, steps=2)
    assert torch.equal(before, torch.get_rng_state())
    assert audit(model, batch).to_dict() == audit(model, batch).to_dict()


def test_a_hook_on_a_tensor_that_the_model_keeps_is_removed_too():
    class Keeping(plain.Module):
        def __init__(self):
            super().__init__()
            self.linear = plain.Linear(4, 4)

        def forward(self, x):
            self.kept = [self.linear(x)]
            return self.kept[0] * 2

    model = Keeping()
    audit(model, torch.randn(2, 4))
    assert not model.kept[0]._backward_hooks


# ------------------------------------------------------------------------------------------------------- what is shown


def deep(layers=24):
    class Block(plain.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            return self.down(self.up(x))

    model = plain.Sequential()
    model.blocks = plain.Sequential(*(Block() for _ in range(layers)))
    return model


def test_a_deep_model_folds_into_few_lines_with_failures_first():
    model = deep()
    with torch.no_grad():
        model.blocks[7].up.weight *= 100
        model.blocks[8].up.weight /= 100
    found = audit(model, torch.randn(64, 16))
    assert len([one for one in found.rows if one.kind == "parameter"]) == 48
    lines = str(found).splitlines()
    assert len(lines) < 50
    assert any(re.match(r"blocks\.0…23\.down\.weight +0\.\d+–1\.\d+ ", line) for line in lines)
    assert any(line.startswith("blocks.0…6,9…23.up.weight ") for line in lines)
    failing = next(i for i, line in enumerate(lines) if line.startswith("blocks.7.up.weight"))
    assert failing < next(i for i, line in enumerate(lines) if line.startswith("blocks.0…23.down.weight"))
    assert all(len(line) <= 100 for line in lines)


def test_the_table_fits_eighty_columns_in_rich():
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    Console(file=out, width=80).print(audit(mlp(), classes()))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("Sequential: ")


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], set(), ""

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_html_is_balanced_and_escapes_names():
    model = plain.Sequential()
    model.add_module("<script>alert(1)</script>&[red]", plain.Linear(64, 64))
    found = audit(model, torch.randn(32, 64))
    parser = Tags()
    parser.feed(found._repr_html_())
    assert parser.open == []
    assert "script" not in parser.seen
    assert "<script>alert(1)</script>&[red].weight" in parser.text
    assert "[red]" in str(found)


def test_the_dict_is_json_and_has_every_row():
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = math.inf
    found = audit(model, classes(), steps=1)
    value = json.loads(json.dumps(found.to_dict()))
    assert value["ok"] is False
    assert len(value["rows"]) == len(found.rows)
    assert value["rows"][0]["shape"] == [64, 64]
    assert value["rows"][0]["verdict"] == "non-finite"


def test_statistics_pool_tensors_as_if_they_were_one():
    parts = [torch.randn(50) * 10**power for power in (-3, 0, 3)]
    pooled, whole = Statistics(), Statistics()
    for part in parts:
        pooled.add(part)
    whole.add(torch.cat(parts))
    assert (pooled.rms, pooled.largest, pooled.under) == (pytest.approx(whole.rms), whole.largest, whole.under)
    assert pooled.std == pytest.approx(torch.cat(parts).double().std(correction=0).item())


def test_complex_and_float8_tensors_are_measured():
    complex_ = torch.full((4,), 3 + 4j)
    eight = torch.ones(4).to(torch.float8_e4m3fn)
    for tensor, rms in ((complex_, math.sqrt(12.5)), (eight, 1.0)):
        pool = Statistics()
        pool.add(tensor)
        assert pool.rms == pytest.approx(rms)


def test_sure_logits_pass_though_most_of_their_gradient_is_tiny():
    """As in a trained model, whose probabilities are mostly tiny: this gradient stays in a wide format."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(nn.Linear(64, 64), nn.Readout(64, 256))
    with torch.no_grad():
        model[1].weight.mul_(60)
    checked = nn.audit(model, (torch.randn(512, 64), torch.randint(256, (512,))))
    (last,) = [row for row in checked.rows if row.name == "1" and row.kind == "activation gradient"]
    assert last.underflow["E5M2"] > 0.05
    assert last.ok


def test_a_tensor_at_the_right_scale_that_8_bits_do_not_hold_says_which_and_why():
    class Tiny(torch.nn.Module):
        def forward(self, x):
            return torch.where(torch.rand_like(x) < 0.5, x * 1e-6, x)

    model = torch.nn.Sequential(nn.Linear(64, 64), Tiny(), nn.Linear(64, 64), nn.Readout(64, 10))
    checked = nn.audit(model, (torch.randn(256, 64), torch.randint(10, (256,))))
    (row,) = [row for row in checked.rows if row.name == "1" and row.kind == "activation"]
    assert row.verdict == "underflow"
    assert "too small for E4M3: the next product would read zeros in their place" in row.advice
    assert "nothing is lost in FP32 or BF16" in row.advice
