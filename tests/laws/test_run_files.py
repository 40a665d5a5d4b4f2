"""Finished runs of other tools: files that the tools wrote are read right, and what pretends to be one is refused.

The folder ``run_files`` holds what Trainer, TensorBoard, W&B, Lightning, MLflow and Optuna wrote (by the script in it).
The logs of nanoGPT, nanochat, torchtitan, Lingua and OLMo-core are written here, in the form that their sources print.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from allometry.errors import UserError
from allometry.laws import Observations
from allometry.laws.run_files.find_runs import finished_runs
from allometry.laws.run_files.framed_records import CutShort, fields, leveldb_records, tensorflow_records
from allometry.laws.run_files.plain_yaml import read_yaml

HERE = Path(__file__).parent / "run_files"
TRAINER = HERE / "hugging_face"


def by_name(path: Path, **given):
    return {run.name: run for run in finished_runs(path, given)}


# ---- what the tools wrote


def test_a_trainer_folder_gives_sizes_tokens_batch_rate_and_loss():
    """Two runs of GPT-2: 20 steps of 2 pieces of 4 rows of 16 tokens; one of them logged its tokens."""
    runs = by_name(TRAINER)
    small, large = runs["gpt2-8"], runs["gpt2-16"]
    # 2 layers of 12·w² weights and 13·w of biases and norms, a last norm of 2·w; 64 words, 16 positions; a tied head.
    assert small.counts == {"non_embedding": 1760, "matmul": 1760 + 64 * 8, "total": 1760 + 80 * 8}
    assert large.counts == {"non_embedding": 6592, "matmul": 6592 + 64 * 16, "total": 6592 + 80 * 16}
    for run in (small, large):
        numbers = run.numbers
        assert (numbers["tokens"], numbers["batch_tokens"], numbers["steps"], numbers["lr"]) == (2560, 128, 20, 0.01)
        assert run.finished
        assert run.points["step"].tolist() == [5, 10, 15, 20]
        state = json.loads((TRAINER / run.name / "checkpoint-20" / "trainer_state.json").read_text())
        assert numbers["loss"] == [row["eval_loss"] for row in state["log_history"] if "eval_loss" in row][-1]
    assert small.how["tokens"] == "num_input_tokens_seen of the last checkpoint"
    assert large.how["tokens"] == "total_flos / (6 · parameters without embeddings)"


@pytest.mark.parametrize("pattern", ["runs/events*", "wandb/*/*.wandb"])
def test_a_tracker_alone_tells_the_same_as_the_checkpoint(tmp_path, pattern):
    for width in (8, 16):
        source = next((TRAINER / f"gpt2-{width}").glob(pattern))
        shutil.copytree(source.parent, tmp_path / f"gpt2-{width}")
    runs, expected = list(finished_runs(tmp_path)), by_name(TRAINER)
    assert len(runs) == 2
    for run in runs:
        other = next(one for one in expected.values() if one.counts == run.counts)
        for name in ("tokens", "batch_tokens", "lr", "loss", "steps", "seed"):
            assert run.numbers[name] == pytest.approx(other.numbers[name], rel=1e-6), name
        assert np.allclose(run.points["loss"], other.points["loss"])
        assert run.finished


def test_event_files_are_read_as_tensorboard_reads_them():
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is an extra"
    )
    path = TRAINER / "gpt2-8" / "runs"
    judge = accumulators.EventAccumulator(str(path), size_guidance={"scalars": 0})
    judge.Reload()
    from allometry.laws.run_files.event_files import read_events

    run = read_events(sorted(path.iterdir()), "x", path)
    assert set(run.series) == set(judge.Tags()["scalars"])
    for tag, series in run.series.items():
        events = judge.Scalars(tag)
        assert list(series.steps) == [event.step for event in events]
        assert list(series.values) == [event.value for event in events]


def test_lightning_steps_count_from_zero_and_the_unit_of_data_is_asked_for():
    with pytest.raises(UserError, match=r"tokens not known.*columns=\{'batch_tokens': 524288\}"):
        Observations.read(HERE / "lightning")
    runs = Observations.read(HERE / "lightning", {"batch_tokens": 8})
    assert sorted(runs.num_params) == [4 * 8 + 8 + 8 + 1, 4 * 16 + 16 + 16 + 1]
    assert set(runs.tokens) == {40 * 8}
    assert set(runs.column("lr")) == {0.1}
    assert len(runs.curves.names) == 2


def test_a_store_of_mlflow_leaves_out_what_failed():
    runs = Observations.read(HERE / "mlflow")
    assert (runs.labels, set(runs.tokens), set(runs.column("batch_tokens"))) == (
        ("width-8", "width-16"),
        {10240},
        {256},
    )
    assert any("left out 1 of 3 runs, status failed: width-32" in note for note in runs.notes)
    assert runs.loss.tolist() == pytest.approx([3.1 + 40 / (100 * w**2) ** 0.4 + 0.5 for w in (8, 16)])


def test_trials_of_optuna_are_runs_from_their_store_and_their_table():
    store, table = Observations.read(HERE / "optuna" / "optuna.db"), Observations.read(HERE / "optuna" / "trials.csv")
    assert store.labels == ("ladder/0", "ladder/1", "ladder/3")
    for name in ("num_params", "tokens", "loss", "lr"):
        assert store.column(name).tolist() == table.column(name).tolist()


def test_every_column_has_a_note_on_how_it_was_derived():
    notes = Observations.read(TRAINER).notes
    for name in ("num_params (non-embedding)", "tokens", "batch_tokens", "lr", "loss"):
        assert sum(note.startswith(f"{name}: ") for note in notes) == 1, name


def test_reading_leaves_the_source_untouched(tmp_path):
    shutil.copytree(HERE, tmp_path / "runs")
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    list(finished_runs(tmp_path / "runs"))
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()} == before


# ---- what other programs print


def nanogpt(tokens: str = "tokens per iteration will be: 16,384\n") -> str:
    steps = [f"iter {i}: loss {4 - i / 1000:.4f}, time 27.10ms, mfu 13.75%" for i in range(0, 501, 10)]
    return f"{tokens}number of parameters: 10.65M\nstep 500: train loss 1.5, val loss 1.7220\n" + "\n".join(steps)


def test_nanogpt_prints_what_a_law_needs(tmp_path):
    (tmp_path / "a.log").write_text(nanogpt())
    runs = Observations.read(tmp_path)
    assert (runs.counted, runs.num_params[0], runs.tokens[0], runs.loss[0]) == ("matmul", 10.65e6, 500 * 16384, 1.722)
    (tmp_path / "a.log").write_text(nanogpt(""))
    assert Observations.read(tmp_path / "a.log", {"batch_tokens": 16384}).tokens[0] == 500 * 16384


def test_nanochat_is_read_in_its_old_and_its_new_form(tmp_path):
    old = (
        "Number of parameters: 560,988,160\nTotal batch size 524,288 => gradient accumulation steps: 1\n"
        "Total number of training tokens: 11,219,763,200\nStep 00250 | Validation bpb: 1.0123\n"
        "step 21399/21400 (99.99%) | loss: 2.612345 | lrm: 0.01 | dt: 458.10ms | tok/sec: 1,144,469\n"
        "Step 21400 | Validation bpb: 0.8123\n"
    )
    (tmp_path / "old.log").write_text(old)
    runs = Observations.read(tmp_path / "old.log")
    assert (runs.counted, runs.num_params[0], runs.tokens[0], runs.loss[0]) == ("total", 560988160, 11219763200, 0.8123)
    assert any("bits a byte" in note for note in runs.notes)
    lines = [
        f"[base] model base.model_tag=d{d} base.num_params={d * 5e7:.0f} base.num_scaling_params={d * 4e7:.0f} "
        f"base.tokens_trained={d * 8e8:.0f} base.total_batch_size=524288 base.val_bpb={1.2 - d / 100}"
        for d in (4, 8, 12)
    ]
    (tmp_path / "curve.log").write_text("\n".join(lines))
    runs = Observations.read(tmp_path / "curve.log")
    assert (runs.counted, runs.labels) == ("matmul", ("d4", "d8", "d12"))
    assert runs.num_params.tolist() == [1.6e8, 3.2e8, 4.8e8]
    assert runs.loss.tolist() == pytest.approx([1.16, 1.12, 1.08])


def test_torchtitan_prints_colours(tmp_path):
    blue, reset = "\x1b[34m", "\x1b[39m"
    lines = [
        f"[titan] - {blue}Model llama3 debugmodel {blue}size: 6,139,136 total parameters{reset}",
        "Trainer is initialized with local batch size 8, global batch size 64, gradient accumulation steps 1, "
        "sequence length 2048, total steps 10",
        *(f"{blue}step: {i:2}  {reset}loss: {8 - i / 10:7.4f}  grad_norm: 1.2  tps: 1,234" for i in range(1, 11)),
        f"{blue}validate step: 10  {reset}loss:  7.1000  memory: 1.0GiB",
    ]
    (tmp_path / "run.txt").write_text("\n".join(lines))
    runs = Observations.read(tmp_path)
    assert (runs.num_params[0], runs.tokens[0], runs.loss[0]) == (6139136, 10 * 64 * 2048, 7.1)
    assert len(runs.curves) == 10


def test_lingua(tmp_path):
    folder = tmp_path / "lingua" / "a"
    folder.mkdir(parents=True)
    lines = [
        {"global_step": i, "acc_step": 0, "loss/out": 5 - i / 100, "optim/lr": 1e-3, "optim/total_tokens": i * 1e6}
        for i in range(10, 110, 10)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "config.yaml").write_text("name: a\nmodel:\n  dim: 512\n  num_params: 30000000\noptim:\n  lr: 0.001\n")
    runs = Observations.read(tmp_path)
    assert (runs.num_params[0], runs.tokens[0], runs.column("lr")[0]) == (3e7, 1e8, 1e-3)
    assert any("no held-out loss was logged" in note for note in runs.notes)


@pytest.mark.parametrize("with_config", [True, False])
def test_the_ladder_of_olmo_core(tmp_path, with_config):
    """Names and keys of its MetricSaver, SpeedMonitor, LMEvaluator and ConfigSaver callbacks."""
    folder = tmp_path / "190M"
    folder.mkdir()
    for step in (100, 200):
        values = {
            "train/CE loss": 5 - step / 100,
            "optim/LR (group 0)": 1e-3 * (3 - step / 100),
            "throughput/total tokens": step * 1e6,
            "eval/lm/c4_en-validation/CE loss": 5.1 - step / 100,
            "eval/lm/pile-validation/CE loss": 5.3 - step / 100,
            "eval/lm/c4_en-validation/PPL": 100.0,
            "eval/downstream/arc_challenge (CE loss)": 9.0,
        }
        (folder / f"metrics_step{step}.json").write_text(json.dumps(values))
        (folder / "metrics.json").write_text(json.dumps(values))
    block = {"attention": {"n_heads": 12, "bias": False}, "feed_forward": {"hidden_size": 3072, "bias": False}}
    model = {"d_model": 768, "n_layers": 12, "vocab_size": 100352, "block": block}
    if with_config:
        (folder / "config.json").write_text(
            json.dumps({"seed": 42, "size": "190M", "model": model, "optim": {"lr": 1e-3}})
        )
    runs = Observations.read(tmp_path)
    expected = 12 * (4 * 768**2 + 3 * 768 * 3072 + 2 * 768) + 768 if with_config else 190e6
    assert (runs.counted, runs.num_params[0], runs.tokens[0]) == ("non_embedding", expected, 2e8)
    assert runs.loss[0] == pytest.approx(3.2)
    assert runs.column("lr")[0] == pytest.approx(2e-3)
    assert any("the mean of the last of 2 'eval/lm/…/CE loss'" in note for note in runs.notes)


@pytest.mark.parametrize("name", ["20261129", "run-190M", "1e9", "190k"])
def test_a_folder_of_olmo_core_that_is_not_named_by_a_size_tells_none(tmp_path, name):
    """A date is a number too."""
    (tmp_path / name).mkdir()
    values = {"train/CE loss": 4.0, "throughput/total tokens": 1e6, "eval/lm/c4_en-validation/CE loss": 4.1}
    for file in ("metrics.json", "metrics_step100.json"):
        (tmp_path / name / file).write_text(json.dumps(values))
    with pytest.raises(UserError, match="num_params not known"):
        Observations.read(tmp_path)


def test_of_a_checkpoint_with_experts_the_active_parameters_are_counted(tmp_path):
    shapes = {"model.embed_tokens.weight": [100, 8], "model.layers.0.self_attn.q_proj.weight": [8, 8]}
    shapes |= {f"model.layers.0.block_sparse_moe.experts.{i}.w1.weight": [8, 32] for i in range(8)}
    shapes |= {"model.layers.0.block_sparse_moe.gate.weight": [8, 8], "lm_head.weight": [100, 8]}
    header = json.dumps(
        {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    )
    folder = tmp_path / "run" / "checkpoint-100"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    (folder / "config.json").write_text(
        json.dumps({"num_local_experts": 8, "num_experts_per_tok": 2, "hidden_size": 8})
    )
    state = {
        "global_step": 100,
        "max_steps": 100,
        "num_input_tokens_seen": 50_000,
        "log_history": [{"step": 100, "eval_loss": 3.5}],
    }
    (folder / "trainer_state.json").write_text(json.dumps(state))
    runs = Observations.read(tmp_path)
    assert (runs.counted, runs.num_params[0]) == ("active", 64 + 64 + 2 * 8 * 32)
    assert Observations.read(tmp_path, counted="non_embedding").num_params[0] == 64 + 64 + 8 * 8 * 32


# ---- batches that no file tells


def test_the_batch_of_a_device_waits_for_the_number_of_processes(tmp_path):
    """A state without tokens and FLOPs, and no weights: Trainer's batch is that of one device."""
    folder = tmp_path / "run" / "checkpoint-100"
    folder.mkdir(parents=True)
    state = {"global_step": 100, "max_steps": 100, "train_batch_size": 4}
    state["log_history"] = [{"step": 50, "loss": 4.0, "learning_rate": 1e-3}, {"step": 100, "eval_loss": 3.5}]
    (folder / "trainer_state.json").write_text(json.dumps(state))
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4}
    (folder / "config.json").write_text(json.dumps(shape | {"vocab_size": 100, "max_position_embeddings": 32}))
    with pytest.raises(UserError, match=r"tokens not known: run.*columns=\{'processes': 1\}"):
        Observations.read(tmp_path)
    runs = Observations.read(tmp_path, {"processes": 8, "accumulation": 2})
    assert runs.tokens[0] == 100 * 4 * 2 * 8 * 32
    assert runs.num_params[0] == 2 * (4 * 64**2 + 3 * 64 * 128 + 2 * 64) + 64


# ---- wrong input


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_the_pickle_beside_a_checkpoint_is_never_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TRAINER, tmp_path / "runs")
    for path in (tmp_path / "runs").rglob("training_args.bin"):
        path.write_bytes(pickle.dumps(Bomb()))
    assert len(Observations.read(tmp_path / "runs")) == 2
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("trainer_state.json", b'{"log_history": [{"st', "is not JSON"),
        ("trainer_state.json", b"[]", "holds no object of JSON"),
        ("trainer_state.json", b'{"a": 1}', "has no log_history"),
        ("trainer_state.json", b"[" * 100_000, "is not JSON"),
        ("a.wandb", b"LOG\x00" * 9, "is no file of W&B's, or of a version"),
        ("a.db", b"SQLite format 3\x00" + bytes(200), "cannot be read as a store of MLflow or Optuna"),
        ("x.txt", b"nothing", "no runs in it"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        Observations.read(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_hostile_lengths_end_a_log_and_take_no_memory():
    for length in (1 << 63, 1 << 40, 100):
        with pytest.raises(CutShort):
            list(tensorflow_records(struct.pack("<Q", length) + bytes(20)))
    with pytest.raises(CutShort):
        list(leveldb_records(b":W&B\x00\x00\x00" + struct.pack("<IHB", 0, 60_000, 1) + bytes(10)))
    with pytest.raises(CutShort):
        list(leveldb_records(b":W&B\x00\x00\x00" + struct.pack("<IHB", 0, 1, 3) + bytes(10)))
    for message in (b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 20, b"\x0b", b"\x09\x00"):
        with pytest.raises(CutShort):
            list(fields(message))


@pytest.mark.parametrize("pattern", ["runs/events*", "wandb/*/*.wandb"])
def test_a_log_that_is_cut_or_damaged_gives_what_stands_before(tmp_path, pattern):
    """Wherever it is cut: no other error than one line, and never a wrong step."""
    source = next((TRAINER / "gpt2-8").glob(pattern))
    whole, generator = source.read_bytes(), random.Random(0)
    complete, lines = next(iter(finished_runs(source))).points["step"].tolist(), []
    for trial in range(150):
        content = bytearray(whole[: generator.randrange(8, len(whole))])
        if trial % 2:
            content = bytearray(whole)
            for _ in range(generator.randrange(1, 8)):
                content[generator.randrange(8, len(content))] = generator.randrange(256)
        (tmp_path / source.name).write_bytes(content)
        try:
            run = next(iter(finished_runs(tmp_path / source.name)), None)
        except UserError as error:
            lines.append(str(error))
            continue
        if not trial % 2 and run is not None and "step" in run.points:
            assert run.points["step"].tolist() == complete[: len(run.points["step"])]
    assert not any("\n" in line for line in lines)


def test_a_run_of_wandb_that_did_not_end_is_left_out(tmp_path):
    source = next((TRAINER / "gpt2-8").glob("wandb/*/*.wandb"))
    (tmp_path / "run-x.wandb").write_bytes(source.read_bytes()[:-120])
    run = next(iter(finished_runs(tmp_path)))
    assert run.status == "unfinished"
    with pytest.raises(UserError, match="status unfinished"):
        Observations.read(tmp_path)


def test_links_do_not_lead_out_of_the_folder(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    shutil.copytree(TRAINER / "gpt2-8", outside / "gpt2-8")
    shutil.copytree(TRAINER / "gpt2-16", inside / "gpt2-16")
    (inside / "link").symlink_to(outside / "gpt2-8")
    (inside / "file").mkdir()
    (inside / "file" / "trainer_state.json").symlink_to(outside / "gpt2-8" / "checkpoint-20" / "trainer_state.json")
    (inside / "loop").symlink_to(inside)
    assert set(by_name(inside)) == {"gpt2-16"}


def test_weights_with_a_header_that_lies_are_refused(tmp_path):
    shutil.copytree(TRAINER / "gpt2-8", tmp_path / "run")
    path = tmp_path / "run" / "checkpoint-20" / "model.safetensors"
    for content in (struct.pack("<Q", 1 << 50) + b"{}", struct.pack("<Q", 4) + b"{{{{", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is no safetensors file"):
            Observations.read(tmp_path)


def test_yaml_obeys_no_tag(tmp_path):
    text = (
        "a: 1\nb: !!python/object/apply:os.system ['touch x']\nc:\n  d: 2.5\n  e: 'word'\nf: [1, 2]\n# g: 3\nh: true\n"
    )
    (tmp_path / "a.yaml").write_text(text)
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1, "b": None, "c": {"d": 2.5, "e": "word"}, "f": None, "h": True}
