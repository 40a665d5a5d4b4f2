"""Configurations: strict, round-tripping, an identity of outcomes, and counts that the built model confirms."""

import json
import math
import os
import re
import subprocess
import sys
import tomllib
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from allometry.config.base import Config, OneOf
from allometry.config.external import ExternalRun
from allometry.config.model import Activation, DecoderConfig, DecoderOptions, ModelConfig, ModuleConfig, Norms
from allometry.config.run import RunConfig
from allometry.config.script import (
    ScriptConfig,
    ScriptCounts,
    ScriptModelConfig,
    ScriptStudyConfig,
    ScriptTaskConfig,
)
from allometry.config.study import StudyConfig
from allometry.config.task import (
    AudioConfig,
    DistilledTextConfig,
    ImagesConfig,
    QuestionsConfig,
    SummariesConfig,
    TaskConfig,
    TextConfig,
    TranslationConfig,
)
from allometry.config.training import TRAINER_VERSION, BuiltInConfig, TrainConfig, TrainerConfig
from allometry.errors import UserError
from allometry.lm.decoder import build
from helpers.builders import model_config, run_config

models = st.builds(
    lambda heads, head_dim, layers, hidden, vocab, context, groups, options: DecoderConfig(
        width=8 * heads * head_dim,
        head_dim=head_dim,
        layers=layers,
        hidden=hidden,
        vocab_size=vocab,
        context=context,
        kv_heads=8 * heads // groups,
        **options,
    ),
    st.integers(1, 3),
    st.sampled_from([2, 4, 6]),
    st.integers(1, 4),
    st.integers(8, 70),
    st.integers(2, 300),
    st.integers(2, 40),
    st.sampled_from([1, 2, 8]),
    st.fixed_dictionaries(
        {
            "tied": st.booleans(),
            "norms": st.sampled_from(get_args(Norms)),
            "activation": st.sampled_from(get_args(Activation)),
            "qk_norm": st.booleans(),
        }
    ),
)

# Another value of every field that decides an outcome; a field added without one fails the test below.
OTHER = {
    "model": {
        "width": 32,
        "layers": 3,
        "head_dim": 4,
        "hidden": 32,
        "vocab_size": 64,
        "context": 32,
        "kv_heads": 1,
        "tied": True,
        "norms": "pre",
        "activation": "gelu",
        "qk_norm": True,
    },
    "train": {
        "tokens": 200_000,
        "batch_tokens": 512,
        "lr": 0.25,
        "reference_tokens": 2_000_000,
        "batch_exponent": 0.4,
        "lr_exponent": 0.1,
        "warmup_tokens": 10_000,
        "decay": 0.3,
        "beta1": 0.8,
        "beta2": 0.95,
        "weight_decay": 0.1,
        "weight_decay_timescale": 6.0,
        "precision": "bf16",
        "compile": True,
        "seed": 1,
    },
    "task": {"fingerprint": "beef", "tokenizer": "words"},
}
INFORMS = {"source", "vocab_size", "train_tokens", "bytes_per_token"}  # of the text, and decides nothing


def changed(config: RunConfig, part: str, **values) -> RunConfig:
    plain = config.to_dict()
    return RunConfig.parse(plain | {part: plain[part] | values})


# ---- strictness


def test_an_unknown_key_is_refused_and_the_known_ones_are_named():
    with pytest.raises(
        UserError, match=r"study\.toml: unknown key 'minuets' \(did you mean 'minutes'\?\); known: data"
    ):
        StudyConfig.parse({"minuets": 5, "minutes": 1}, "study.toml")


def test_an_unknown_nested_key_lists_the_keys_known_there():
    plain = run_config().to_dict()
    with pytest.raises(
        UserError, match=r"unknown key 'model\.widht' \(did you mean 'width'\?\); known: family, width, layers"
    ):
        RunConfig.parse(plain | {"model": plain["model"] | {"widht": 3}})


def test_a_misspelt_key_is_named_rather_than_the_one_it_leaves_missing():
    with pytest.raises(UserError, match="unknown key 'widht'"):
        DecoderConfig.parse({"widht": 16, "layers": 2, "hidden": 8})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "width: is missing"),
        ({"width": 16, "layers": 2}, "hidden: is missing"),
        ({"width": "wide", "layers": 2, "hidden": 8}, "width: .wide. is not a number"),
        ({"width": 16.5, "layers": 2, "hidden": 8}, "width: must be a whole number, not 16.5"),
        ({"width": 16, "layers": 0, "hidden": 8}, "layers: must be 1 or more, not 0"),
        ({"width": 24, "layers": 1, "hidden": 8, "head_dim": 16}, "width 24 is not a multiple of head_dim 16"),
        ({"width": 15, "layers": 1, "hidden": 8, "head_dim": 5}, "head_dim: .*multiple of 2"),
    ],
)
def test_bad_values_are_one_line_that_names_the_key(values, message):
    with pytest.raises(UserError, match=rf"^model: .*{message}") as caught:
        DecoderConfig.parse(values, "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"lr": 0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"decay": 0},
        {"decay": 1.1},
        {"tokens": 0},
        {"beta2": 1.0},
        {"weight_decay": -0.1},
        {"weight_decay": float("inf")},
        {"weight_decay_timescale": 0.5},
        {"seed": -1},
    ],
)
def test_values_that_cannot_train_are_refused(values):
    with pytest.raises(UserError, match=next(iter(values))):
        TrainConfig.parse({"tokens": 1000, "batch_tokens": 16, "lr": 0.1} | values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"minutes": 5, "widths": [16, 32], "tokens": [20_000]},
        {"minutes": 5, "widths": [16, 32]},
        {"widths": [16, 32]},
        {"widths": [16, 16], "tokens": [20_000]},
        {"widths": [], "tokens": [20_000]},
        {"widths": [16, 32], "tokens": []},
        {"widths": [16, 32], "tokens": [100]},
        {"minutes": 0},
    ],
)
def test_a_study_is_specified_in_one_way(values):
    with pytest.raises(UserError):
        StudyConfig.parse(values)


def test_configurations_are_frozen():
    config = run_config()
    with pytest.raises(ValueError):
        config.train = config.train
    with pytest.raises(ValueError):
        config.model.width = 32


# ---- round trips


@pytest.mark.parametrize(
    "config",
    [
        run_config(lr=0.1 + 0.2, seed=7),
        StudyConfig(minutes=2.5),
        StudyConfig(widths=(16, 32), tokens=(20_000, 40_000), sweep=False),
    ],
)
def test_configurations_round_trip_through_toml_and_json(config, tmp_path):
    kind = type(config)
    assert kind.parse(tomllib.loads(config.to_toml())) == config
    assert kind.parse(json.loads(json.dumps(config.to_dict()))) == config
    (tmp_path / "a.toml").write_text(config.to_toml())
    (tmp_path / "a.json").write_text(json.dumps(config.to_dict()))
    assert kind.read(tmp_path / "a.toml") == kind.read(tmp_path / "a.json") == config


@pytest.mark.parametrize("name", ["a.toml", "a.json"])
@pytest.mark.parametrize("content", [b"width = = 3", b"\xff\xfe", b"{", b"[1, 2]"])
def test_files_that_do_not_parse_are_one_line_with_the_path(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as caught:
        StudyConfig.read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_reported_as_missing(tmp_path):
    with pytest.raises(UserError, match=r"none\.toml: No such file"):
        StudyConfig.read(tmp_path / "none.toml")


# ---- identity


@pytest.mark.parametrize("part", ["model", "train", "task"])
def test_the_identity_changes_with_every_field_that_decides_the_outcome(part):
    config = run_config()
    part_config = getattr(config, part)
    keys = {part_config.key} if isinstance(part_config, OneOf) else set()
    fields = set(type(part_config).model_fields) - keys - (INFORMS if part == "task" else set())
    assert set(OTHER[part]) == fields
    ids = {changed(config, part, **{name: value}).id for name, value in OTHER[part].items()}
    assert len(ids | {config.id}) == len(fields) + 1


def test_the_identity_does_not_know_what_follows_from_the_text():
    derived = {"vocab_size": 300, "train_tokens": 10**6, "bytes_per_token": 3.5}
    assert set(derived) | {"source"} == INFORMS
    assert changed(run_config(), "task", **derived).id == run_config().id


def test_epochs_and_bits_a_byte_follow_from_the_text():
    config = changed(run_config(), "task", train_tokens=25_000, bytes_per_token=2.0)
    assert config.epochs == config.tokens / 25_000
    assert run_config().epochs is None
    assert config.task.bits_per_byte(math.log(2)) == 0.5


def test_the_identity_does_not_know_where_the_text_came_from():
    assert run_config(source="a").id == run_config(source="/elsewhere/b").id
    assert run_config(source="a").trunk == run_config(source="/elsewhere/b").trunk


def test_the_trunk_changes_with_every_field_but_tokens_and_decay():
    config = run_config()
    for part, values in OTHER.items():
        for name, value in values.items():
            same = changed(config, part, **{name: value}).trunk == config.trunk
            assert same == (name in ("tokens", "decay")), name


def test_the_identity_does_not_know_how_a_number_was_written():
    assert changed(run_config(lr=1.0), "train", lr=1).id == run_config(lr=1.0).id


def test_the_identity_is_the_same_in_another_process(tmp_path):
    config = run_config(lr=0.1 + 0.2)
    (tmp_path / "run.toml").write_text(config.to_toml())
    code = "from allometry.config.run import RunConfig; c = RunConfig.read('run.toml'); print(c.id, c.trunk)"
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [config.id, config.trunk]


def test_equal_configurations_are_equal_and_hash_alike_with_or_without_their_schedule():
    one, other = run_config(), run_config()
    assert one.schedule.steps > 0
    assert one == other
    assert hash(one) == hash(other)


def test_ids_are_those_of_the_first_release():
    """An id that changes loses every study: these stand for good, as does each default."""
    trainer = {"trainer": {"name": "built_in", "version": 4}}  # a later one trains to other results, under other ids
    usual = RunConfig.parse(run_config().to_dict() | trainer)
    assert (usual.id, usual.trunk) == ("e8828c88bf49", "1d2b8a9d1ffa")
    later = {"kv_heads", "tied", "norms", "activation", "qk_norm", "weight_decay_timescale"}
    others = RunConfig.parse(
        {
            part: run_config().to_dict()[part] | {name: value for name, value in values.items() if name not in later}
            for part, values in OTHER.items()
        }
        | trainer
    )
    assert (others.id, others.trunk) == ("cb0bee037534", "4e8b8ef2083c")


def test_a_field_that_is_added_with_its_old_value_as_default_changes_no_identity():
    class Older(OneOf):
        key, default_kind = "name", "x"
        name: str = "x"

    class X(Older, kind="x"):
        size: int

    class Longer(X, kind="longer"):
        depth: int = 4

    assert Longer(size=3).identity() == X(size=3).identity()
    assert Longer(size=3, depth=5).identity() != X(size=3).identity()


# ---- one of several kinds


def test_a_model_and_a_task_are_of_the_kind_that_they_name():
    plain = run_config().to_dict()
    assert plain["model"]["family"] == "decoder"
    assert plain["task"]["name"] == "text"
    assert plain["trainer"] == {"name": "built_in", "version": TRAINER_VERSION}
    del plain["model"]["family"], plain["task"]["name"], plain["trainer"]
    assert RunConfig.parse(plain) == run_config()


def test_an_unknown_family_task_or_trainer_is_refused_with_the_known_ones():
    plain = run_config().to_dict()
    for part, key, name, known in (
        ("model", "family", "decodr", "decoder"),
        ("task", "name", "txt", "text"),
        ("trainer", "name", "ours", "built_in"),
    ):
        with pytest.raises(UserError, match=rf"{part}: .*unknown {key} '{name}'.*known: {known}") as caught:
            RunConfig.parse(plain | {part: plain[part] | {key: name}})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_a_part_that_is_not_a_table_is_refused_in_one_line(value):
    for part in ("model", "task", "train", "trainer"):
        with pytest.raises(UserError, match=part) as caught:
            RunConfig.parse(run_config().to_dict() | {part: value})
        assert "\n" not in str(caught.value)


# ---- counts


@settings(max_examples=15)
@given(models)
def test_parameter_counts_are_those_of_the_built_model(config):
    with torch.device("meta"):
        model = build(config, 0)
    count = lambda module: sum(parameter.numel() for parameter in module.parameters())
    assert config.num_params == count(model.stack)
    assert config.num_params_matmul == count(model.stack) + count(model.readout)
    assert config.num_params_total == count(model)


@settings(max_examples=10)
@given(models, st.integers(1, 3))
def test_flops_are_those_that_pytorch_counts(config, batch):
    """PyTorch counts every product of explicit attention, the masked half too; a causal one needs (T + 1)/2 of T."""
    model = build(config, 0)
    tokens = torch.zeros(batch, config.context, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.loss(tokens, tokens).backward()
    counts = {str(operation): flops for operation, flops in counter.get_flop_counts()["Global"].items()}
    assert counts.keys() == {"aten.addmm", "aten.bmm"}
    attention = counts["aten.bmm"] * (config.context + 1) / (2 * config.context)
    assert config.flops_per_token * tokens.numel() == pytest.approx(counts["aten.addmm"] + attention, rel=1e-12)


def test_key_and_value_heads_at_their_default_change_no_identity():
    plain = run_config(model={"kv_heads": 2})
    assert plain.id == run_config().id
    assert plain.model.plain
    assert run_config(model={"kv_heads": 1}).id != plain.id


def test_key_and_value_heads_that_do_not_divide_the_heads_are_refused():
    with pytest.raises(UserError, match="kv_heads 3 does not divide 2 heads"):
        DecoderConfig.parse(model_config().to_dict() | {"kv_heads": 3})


def test_counts_by_hand():
    """Width 16, two layers, 24 hidden: 2·(4·256 + 3·384) = 4352; 32 bytes each way: 512 twice."""
    config = model_config(width=16, layers=2, hidden=24, vocab_size=32, context=16)
    assert (config.num_params, config.num_params_matmul, config.num_params_total) == (4352, 4864, 5376)
    assert config.flops_per_token == 6 * 4864 + 12 * 2 * 16 * 8.5


def test_a_runs_flops_are_its_tokens_times_those_of_one():
    config = run_config(tokens=100_000)
    assert config.tokens == config.schedule.tokens >= 100_000
    assert config.flops == config.model.flops_per_token * config.tokens
    assert config.num_params == config.model.num_params


def test_every_configuration_is_one_of_these():
    ours = {kind for kind in Config.__subclasses__() if kind.__module__.startswith("allometry.config.")}
    assert ours == {
        OneOf,
        TrainConfig,
        RunConfig,
        ExternalRun,
        StudyConfig,
        DecoderOptions,
        ScriptCounts,
        ScriptStudyConfig,
    }
    kinds = {base: base.kinds for base in OneOf.__subclasses__() if base.__module__.startswith("allometry.")}
    assert kinds == {
        ModelConfig: {"decoder": DecoderConfig, "module": ModuleConfig, "script": ScriptModelConfig},
        TaskConfig: {
            "text": TextConfig,
            "distilled_text": DistilledTextConfig,
            "images": ImagesConfig,
            "audio": AudioConfig,
            "translation": TranslationConfig,
            "summaries": SummariesConfig,
            "questions": QuestionsConfig,
            "script": ScriptTaskConfig,
        },
        TrainerConfig: {"built_in": BuiltInConfig, "script": ScriptConfig},
    }


def test_a_run_with_another_length_has_the_schedule_of_that_length():
    run = run_config(tokens=10_000)
    assert run.schedule.tokens < 11_000 < run.with_train(tokens=20_000).schedule.tokens
    assert run.with_train(tokens=20_000).trunk == run.trunk


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("data = 3", 'data: must be text in quotes, such as "stdlib", not 3'),
        ('minutes = "three"', "minutes: 'three' is not a number; write 1e9, 1.5B, 200M or 10k"),
        ("minutes = true", "minutes: must be a number, not true"),
        ("minutes = nan", "minutes: must be a finite number, not nan"),
        ("minutes = inf", "minutes: must be a finite number, not inf"),
        ("minutes = -1", "minutes: must be above 0, not -1"),
        ("widths = 16\ntokens = [10_000]", "widths: must be a list, such as [16, 24], not 16"),
        ("widths = [16, 24.5]\ntokens = [10_000]", "widths, entry 2: must be a whole number, not 24.5"),
        ("minutes = 3\nsweep = 5", "sweep: must be true or false, not 5"),
        ("minutes = 3\ndecoder = 5", "decoder: must be a table, not 5"),
        ('minutes = 3\nprecision = "fp8"', "precision: must be 'fp32' or 'bf16', not \"fp8\""),
        ("minutes = 3\nseed = 99999999999999999999", "seed: "),
        ("minutes = 3\n[decoder]\nhead_dim = 3", "decoder.head_dim: must be a multiple of 2, not 3"),
    ],
)
def test_what_is_wrong_with_a_value_is_said_in_plain_words(tmp_path, toml, words):
    path = tmp_path / "study.toml"
    path.write_text(toml)
    with pytest.raises(UserError) as caught:
        StudyConfig.read(path)
    assert str(caught.value).startswith(f"{path}: {words}")
    assert not re.search(r"Input|Value error|valid", str(caught.value))


def test_sizes_may_be_written_as_people_write_them(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('widths = ["16", 24]\ntokens = ["60k", 2e5, "1.5M"]\nbatch_tokens = "1k"\nlr = "0.5"')
    config = StudyConfig.read(path)
    assert config.tokens == (60_000, 200_000, 1_500_000)
    assert (config.widths, config.batch_tokens, config.lr) == ((16, 24), 1000, 0.5)
    plain = StudyConfig(widths=(16, 24), tokens=(60_000, 200_000, 1_500_000), batch_tokens=1000, lr=0.5)
    assert config.identity() == plain.identity()
