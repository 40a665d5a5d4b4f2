"""One run by two processes: the losses, files and records of one, through kills and at another number of processes."""

import hashlib
import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from allometry import nn
from allometry.config.model import DecoderConfig
from allometry.config.run import RunConfig
from allometry.config.task import TextConfig
from allometry.config.training import TrainConfig
from allometry.data import corpus as corpora
from allometry.data.corpus import Corpus
from allometry.data.shards import fingerprint
from allometry.errors import UserError
from allometry.lm import checkpoint
from allometry.lm.decoder import DECODER, build
from allometry.lm.distributed import crew as distributed
from allometry.lm.distributed import sharded_training
from allometry.lm.distributed.world import World
from allometry.lm.generate import Writing, generate
from allometry.lm.inference.sampling import Sampling
from allometry.lm.training.gradients import shares
from allometry.lm.training.health import SMOOTHING
from allometry.lm.training.step_memory import StepLimits
from allometry.lm.training.training_step import advance
from allometry.runs.cost import memory_bytes
from allometry.runs.hooks import SILENT
from allometry.runs.job import Job
from allometry.runs.study import Study
from helpers import processes
from helpers.training import fresh, texts

PARALLEL = ("ddp", "fsdp")
HALF = 25


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefgh \n", np.uint8)
    text = rng.choice(letters, 60_000, p=[0.3, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02])
    return Corpus(text[:57_000], text[57_000:], "made", "made", 1, 0, 0)


def config(corpus, tokens=4_000) -> RunConfig:
    """Some 50 steps of 1, 2 and then 4 windows: at first there is nothing for a second process to do."""
    decays = {"weight_decay": 0.001, "weight_decay_timescale": 6.0}
    train = TrainConfig(tokens=tokens, batch_tokens=2048, lr=0.3, warmup_tokens=300, **decays)
    return RunConfig(
        model=DecoderConfig(width=16, layers=2, head_dim=8, hidden=24, context=32),
        task=TextConfig(source="made", fingerprint=corpus.fingerprint),
        train=train,
    )


@pytest.fixture(scope="module")
def stored(corpus, tmp_path_factory):
    """The corpus as it is read back, its fingerprint that of its bytes."""
    mark = fingerprint([corpus.train], [corpus.held_out], "")
    made = Corpus(corpus.train, corpus.held_out, "made", mark, 1, 0, 0)
    corpora.save_corpus(made, tmp_path_factory.mktemp("corpus"))
    return made


def study(path, stored) -> Study:
    made = Study.create(path, {"made": True})
    if not made.corpus_path.exists():
        corpora.save_corpus(stored, made.corpus_path)
    return made


def launch(folder, scenarios):
    """Run the scenarios in two processes: exit codes and standard errors."""
    path = folder / "scenarios.json"
    path.write_text(json.dumps(scenarios))
    codes, _, errors = processes.launch(folder, "main", str(path), 60.0)
    return codes, errors


def scenario(where, run, parallel, **more):
    name = where.path / f"seen-{parallel}-{'-'.join(f'{k}{v}' for k, v in more.items())}.json"
    return {"study": str(where.path), "config": run.to_dict(), "parallel": parallel, "seen": str(name)} | more


def losses(seen, before=None):
    """The loss of every step, from the smoothed ones: step → loss."""
    found, last = {}, before
    for step, smooth in seen:
        if last is None:
            found[step] = smooth
        else:
            found[step] = last + (smooth - last) / SMOOTHING
        last = smooth
    return found


def apart(one, other):
    """The largest relative difference at a step that both have."""
    common = one.keys() & other.keys()
    assert common
    return max(abs(one[step] / other[step] - 1) for step in common)


def digest(where, run):
    tensors, _ = checkpoint.read(where.weights_path(run.id))
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + tensors[name].numpy().tobytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def alone(stored):
    """The same run by the usual trainer: loss of every step, held-out loss, optimiser's groups."""
    run = config(stored)
    (member, pieces), seen = fresh(run, stored), []
    meter = member.meter
    look = lambda: seen.append((meter.step, meter.smooth))
    advance([member], [run], pieces, 1, look)
    rates = processes.rates(member.model, member.optimizer)  # of the first step, as the processes note theirs
    advance([member], [run], pieces, run.schedule.steps, look)
    held_out = member.task.evaluate(member.model)["loss"]
    return {"losses": losses(seen), "held_out": held_out, "rates": rates, "model": member.model}


@pytest.fixture(scope="module")
def ran(stored, tmp_path_factory):
    """All that two processes are to do, in two launches, the first of which ends in a kill; and what one does."""
    folder, run = tmp_path_factory.mktemp("studies"), config(stored)
    steps = run.schedule.steps
    where = {
        (what, parallel): study(folder / f"{what}-{parallel}", stored)
        for what in ("calm", "killed", "two to one", "one to two", "fall")
        for parallel in PARALLEL
    }
    world = World(dist.HashStore(), 0, 1, 0, 1, 60.0)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        one = {p: scenario(where["one to two", p], run, p, stop_after=HALF) for p in PARALLEL}
        for parallel in PARALLEL:
            processes.run(world, one[parallel])
        calm = {p: scenario(where["calm", p], run, p) for p in PARALLEL}
        shared = {p: scenario(where["two to one", p], run, p, stop_after=HALF) for p in PARALLEL}
        fall = scenario(where["fall", "ddp"], run, "ddp", stop_after=steps - 3)
        begun = {
            "ddp": scenario(where["killed", "ddp"], run, "ddp", save_every=10, leave_after=38),
            "fsdp": scenario(where["killed", "fsdp"], run, "fsdp", save_every=10, die_after=38),
        }
        first = [*calm.values(), *shared.values(), fall, begun["ddp"], begun["fsdp"]]
        killed = launch(folder, first)
        again = {p: scenario(where["killed", p], run, p) for p in PARALLEL}
        two = {p: scenario(where["one to two", p], run, p) for p in PARALLEL}
        resumed = launch(folder, [*again.values(), *two.values(), scenario(where["fall", "ddp"], run, "ddp")])
        back = {p: scenario(where["two to one", p], run, p) for p in PARALLEL}
        for parallel in PARALLEL:
            processes.run(world, back[parallel])
    finally:
        dist.destroy_process_group()
    seen = {
        (what, p): [tuple(pair) for pair in json.loads(Path(made[p]["seen"]).read_text())]
        for what, made in (
            ("calm", calm),
            ("again", again),
            ("two", two),
            ("back", back),
            ("one", one),
            ("shared", shared),
        )
        for p in PARALLEL
    }
    rates = {p: json.loads(Path(calm[p]["seen"] + ".rates").read_text()) for p in PARALLEL}
    return {"where": where, "killed": killed, "resumed": resumed, "seen": seen, "run": run, "rates": rates}


@pytest.mark.parametrize("parallel", PARALLEL)
def test_two_processes_have_the_step_losses_of_one(ran, alone, parallel):
    found = losses(ran["seen"]["calm", parallel])
    assert found.keys() == alone["losses"].keys()
    assert apart(found, alone["losses"]) < 1e-5


@pytest.mark.parametrize("parallel", PARALLEL)
def test_the_record_and_the_weights_are_those_of_one(ran, alone, parallel):
    where, run = ran["where"]["calm", parallel], ran["run"]
    record = where.record(run.id)
    assert record.status == "finished"
    assert record.loss == pytest.approx(alone["held_out"].value, rel=1e-5)
    assert record.loss_se == pytest.approx(alone["held_out"].error, rel=1e-4)
    assert record.flops_spent == pytest.approx(run.flops)
    assert record.environment["processes"] == 2
    assert record.environment["parallel"] == parallel
    model = build(run.model, run.train.seed)
    model.load_state_dict(checkpoint.read(where.weights_path(run.id))[0])
    for (name, mine), theirs in zip(model.named_parameters(), alone["model"].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4, msg=name)
    assert not list(where.path.glob("trunks/*")) + list(where.path.glob("runs/*/state"))


@pytest.mark.parametrize("parallel", PARALLEL)
def test_roles_give_the_same_rates_to_the_same_parameters(ran, alone, parallel):
    assert ran["rates"][parallel] == alone["rates"]
    assert len({tuple(rate) for rate in alone["rates"].values()}) > 3


def test_a_process_that_is_killed_ends_the_others_with_one_line(ran):
    (survivor, dead), (text, _) = ran["killed"]
    assert dead == -9
    assert survivor == 2
    assert [line for line in text.splitlines() if "Stray" in line] == text.strip().splitlines()[-1:]
    assert "the same command goes on" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("parallel", PARALLEL)
def test_killed_and_resumed_it_ends_to_the_bit_where_an_undisturbed_one_does(ran, parallel):
    assert ran["resumed"][0] == [0, 0], ran["resumed"][1]
    assert ran["seen"]["again", parallel][0][0] == 31  # from the state at step 30
    assert digest(ran["where"]["killed", parallel], ran["run"]) == digest(ran["where"]["calm", parallel], ran["run"])
    ends = [ran["where"][what, parallel].record(ran["run"].id).loss for what in ("killed", "calm")]
    assert ends[0] == ends[1]


def test_stopped_in_its_fall_it_goes_on_from_there_to_the_bit(ran):
    assert digest(ran["where"]["fall", "ddp"], ran["run"]) == digest(ran["where"]["calm", "ddp"], ran["run"])


@pytest.mark.parametrize("parallel", PARALLEL)
@pytest.mark.parametrize(("before", "after"), [("one", "two"), ("shared", "back")], ids=["1 to 2", "2 to 1"])
def test_at_another_number_of_processes_each_step_goes_on_as_it_would_have(ran, alone, parallel, before, after):
    first, second = ran["seen"][before, parallel], ran["seen"][after, parallel]
    assert second[0][0] == first[-1][0] + 1 == HALF + 1
    found = losses(second, before=first[-1][1])
    assert apart({step: found[step] for step in range(HALF + 1, HALF + 6)}, alone["losses"]) < 1e-6
    assert apart(found, alone["losses"]) < 1e-5


# ---- in one process


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("rows_per_call", [1, 2, 100])
def test_the_parts_of_a_batch_sum_to_its_gradients(group, stored, size, rows_per_call):
    """Whatever the number of processes, also where it does not divide the batch or is larger, and of pieces."""
    run = config(stored)
    model = build(run.model, run.train.seed)
    task = texts(stored)(run)
    whole = task.batch(8, 5)
    loss = nn.functional.cross_entropy(model(whole[0]).flatten(0, 1), whole[1].flatten())
    loss.backward()
    total, sums = 0.0, None
    for rank in range(size):
        world = World(dist.HashStore(), rank, size, 0, 1, 1.0)
        gradients = sharded_training.SharedGradients(world, run, task, "ddp")
        gradients.limits = StepLimits(rows_per_call)
        total += gradients.part(8, 5)
        mine = [parameter.grad.clone() for parameter in gradients.member.model.parameters()]
        sums = mine if sums is None else [a + b for a, b in zip(sums, mine, strict=True)]
    assert total == pytest.approx(loss.item(), rel=1e-6)
    for parameter, gradient in zip(model.parameters(), sums, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rows", "parts"), [(8, 2), (5, 3), (1, 4), (0, 1)])
def test_shares_are_consecutive_even_and_complete(rows, parts):
    cuts = shares(rows, parts)
    assert [row for begin, end in cuts for row in range(begin, end)] == list(range(rows))
    assert max(end - begin for begin, end in cuts) - min(end - begin for begin, end in cuts) <= 1


def test_what_does_not_fit_is_sharded_and_cut_into_pieces(group, stored, monkeypatch):
    run = config(stored, tokens=200_000)
    world = World(dist.HashStore(), 0, 1, 0, 1, 1.0)
    states = 16 * run.model.num_params_total
    rows = run.schedule.stages[-1].batch
    a_row = (memory_bytes(run) - states) / rows

    def choice(size, free):
        world.size = size
        monkeypatch.setattr(sharded_training.devices, "free_bytes", lambda *_: free / sharded_training.USABLE)
        return sharded_training._fit_memory(world, DECODER, run, "auto")

    assert choice(1, 1e15) == ("ddp", rows)
    assert choice(4, states + 2.5 * a_row) == ("ddp", 2)
    assert choice(40, states) == ("fsdp", max(1, int(states * 39 / 40 // a_row)))
    assert choice(4, 1.0) == ("fsdp", 1)


def test_more_processes_than_rows_are_refused(group, stored, tmp_path):
    world = World(dist.HashStore(), 0, 1, 0, 1, 1.0)
    world.agree = lambda work: work()
    world.size = 64
    with pytest.raises(UserError, match="64 processes for batches of at most 4 sequences"):
        distributed.train_run(world, study(tmp_path / "s", stored), Job((config(stored),), "run"), "ddp", SILENT)


def test_an_environment_that_is_not_torchruns_is_refused(monkeypatch):
    for rank, size, words in (("0", "x", "must be numbers"), ("2", "2", "must be below WORLD_SIZE")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(UserError, match=words):
            World.join("cpu")


def test_processes_that_do_not_come_are_waited_for_only_so_long(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"did not find each other|has not answered"):
        World.join("cpu", patience=1.0)


# ---- the command line

RUN = """
data = "{text}"
[model]
width = 16
layers = 2
head_dim = 8
hidden = 24
context = 32
[train]
tokens = 4_000
batch_tokens = 2048
warmup_tokens = 300
lr = 0.3
"""


def test_under_torchrun_a_run_is_a_run_like_any_other(tmp_path):
    text, run, out = tmp_path / "text.txt", tmp_path / "run.toml", tmp_path / "s"
    text.write_text("\n".join(f"line {number} of {number % 7} words" for number in range(9000)))
    run.write_text(RUN.format(text=text))
    codes, printed, said = processes.launch(tmp_path, "command", ["train", str(run), "--out", str(out)])
    assert codes == [0, 0], said
    where = Study.open(out)
    record = where.records()[0]
    assert printed[0].startswith(f"{out}/{record.id}: finished, loss {record.loss:.4f}")
    assert (printed[1], said[1]) == ("", "")
    assert record.environment["processes"] == 2
    assert record.environment["parallel"] == "ddp"  # it fits
    (written,) = generate(where, record, ["line "], Writing(5, Sampling(temperature=0.0)))
    assert written.text.startswith("line ")


def test_under_torchrun_a_mistake_is_one_line_of_one_process_and_ends_all(tmp_path):
    codes, printed, said = processes.launch(tmp_path, "command", ["train", str(tmp_path / "none.toml")])
    assert codes == [2, 2]
    assert printed == ["", ""]
    assert said[0].count("\n") == 1
    assert said[0].startswith("allometry: ")
    assert "none.toml" in said[0]
    assert said[1] == ""
