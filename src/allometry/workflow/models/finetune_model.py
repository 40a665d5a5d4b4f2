"""A pretrained model fine-tuned on a ladder of sample counts, with a record of each, and the law of the counts."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...config.external import ExternalRun
from ...errors import UserError
from ...extras import require
from ...laws import Observations, forecast
from ...laws.any_inputs.input_forecast import InputForecast
from ...planning import SamplesPlan, samples_for
from ...quantities import Score, plural
from ...runs.record import RunRecord, environment, now
from ...runs.study import Study
from ..listener import Listener, Note, note_to, silent

LEAST_COUNTS = 3  # for a law


@dataclass(frozen=True)
class FineTuned:
    """The study, its records by growing count, the loss before any training, and the law if there are enough counts."""

    path: Path
    records: tuple[RunRecord, ...]
    before: float
    law: InputForecast | None
    best: Path | None

    def samples_for(self, loss: float) -> SamplesPlan | str | None:
        """How many samples a loss takes; what the law says instead, where there is no such number; None without one."""
        if self.law is None:
            return None
        try:
            return samples_for(self.law, loss)
        except UserError as error:
            return str(error)

    def to_json(self) -> dict[str, Any]:
        rows = [
            {"samples": r.tokens, "loss": r.loss, "loss_se": r.loss_se, "run": r.id}
            | {name: score.value for name, score in r.scores.items()}
            for r in self.records
        ]
        law = None if self.law is None else self.law.to_json()
        model = None if self.best is None else str(self.best)
        return {"path": str(self.path), "before": self.before, "runs": rows, "law": law, "model": model}


def finetune(
    model: str,
    data: Path | str,
    out: Path | str,
    *,
    context: int = 512,
    held_out: int = 100,
    listener: Listener = silent,
    **options: Any,
) -> FineTuned:
    """Fine-tune a model of transformers on each of a ladder of sample counts; the same call again goes on.

    Data with labels make a classifier of it.

    Args:
        model: a folder, a GGUF file, or a name on the hub that is in the local cache.
        data: JSONL of prompt and completion, of text, or of text and label; or a text.
        out: the study; the model of the best count goes to its folder ``model``.
        context: the most tokens of an example.
        held_out: the number of examples that no training sees.
        listener: receives what happens.
        **options: the fields of :class:`~allometry.lm.finetuning.sample_ladder.FineTuning`.

    Raises:
        UserError: no such model or data, options out of their range, or ``out`` holds something else.
    """
    require("torch", "transformers", "safetensors")
    from ...lm.finetuning.sample_ladder import FineTuning, SampleLadder

    asked = FineTuning(**options)
    pretrained = _read(model, Path(data), context, held_out, asked.seed)
    sides = pretrained.train, pretrained.held_out
    ladder = SampleLadder(pretrained.model, *sides, asked, say=note_to(listener), pad=pretrained.pad)
    settings = asdict(asked) | {"model": Path(model).name, "data": Path(data).name} | pretrained.settings
    study = Study.create(Path(out), {"finetune": settings | {"counts": list(asked.counts)}})
    runs = {count: _run(settings, pretrained, count, ladder.tokens_of(count)) for count in asked.counts}
    with study.lock(note_to(listener)):  # the trunk is one, and so is the model that is kept
        records = [record for run in runs.values() if (record := study.record(run.id)) is not None]
        before = _before(study, ladder, listener)
        if not _enough(records, asked.patience):
            _train(study, ladder, pretrained, runs, records, listener)
    kept = tuple(sorted(records, key=lambda record: record.tokens))
    best = study.path / "model"
    return FineTuned(study.path, kept, before, _law(kept, listener), best if best.is_dir() else None)


def _law(records: Sequence[RunRecord], listener: Listener) -> InputForecast | None:
    """The law of the loss over the samples; None for too few counts, or losses that show none."""
    losses = {record.tokens: record.loss for record in records if record.loss is not None}
    if len(losses) < LEAST_COUNTS:
        return None
    try:
        frame = {"samples": list(losses), "loss": list(losses.values())}
        return forecast(Observations.read(frame, target="loss", inputs=["samples"]))
    except UserError as error:
        listener(Note(f"no law of the samples: {error}"))
        return None


@dataclass(frozen=True)
class _Pretrained:
    """A model with its tokenizer, examples for both, and what of them belongs to a run's settings."""

    model: Any
    tokenizer: Any
    train: Sequence[Any]
    held_out: Sequence[Any]
    pad: int
    loss_unit: str
    settings: dict[str, Any]

    @property
    def num_params(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


def _read(model: str, data: Path, context: int, held_out: int, seed: int) -> _Pretrained:
    """The model, a classifier if the data have labels, and the examples as it reads them.

    Raises:
        UserError: no such model or data, or too few examples.
    """
    from ...lm.finetuning.examples import labels_in, read_examples, split
    from ...lm.finetuning.pretrained_model import context_of, fingerprint_of, load_pretrained

    labels = labels_in(data)
    loaded, tokenizer = load_pretrained(model, labels, seed)
    length = context_of(loaded, context)
    own = {"add_special_tokens": True, "truncation": True, "max_length": length}  # a classifier reads [CLS] … [SEP]
    encode = lambda text: tokenizer.encode(text, **(own if labels else {"add_special_tokens": False}))
    examples = read_examples(data, encode, tokenizer.eos_token_id, length, labels)
    train, held = split(examples, seed, held_out)
    unit = f"nats per text, of {len(labels)} labels" if labels else "nats per token of a completion"
    settings = {"context": length, "held_out": held_out, "examples": _fingerprint(examples)}
    settings["weights"] = fingerprint_of(loaded)  # a folder of the same name may hold another model
    settings |= {"labels": len(labels)} if labels else {}
    return _Pretrained(loaded, tokenizer, train, held, tokenizer.pad_token_id or 0, unit, settings)


def _train(
    study: Study,
    ladder: Any,
    pretrained: _Pretrained,
    runs: Mapping[int, ExternalRun],
    records: list[RunRecord],
    listener: Listener,
) -> None:
    """Train the counts that have no record, record each, and keep the model of the best."""
    patience = ladder.options.patience
    done = {record.tokens for record in records}
    begun = time.monotonic()
    for branch in ladder.branches(study.trunk_path("finetune"), done):
        record = _record(runs[branch.count], branch, time.monotonic() - begun, ladder.threads)
        best = min((each.loss for each in records if each.loss is not None), default=math.inf)
        if record.loss is not None and record.loss < best:
            _save_model(pretrained.model, pretrained.tokenizer, study.path / "model")
        study.save(record, [])
        records.append(record)
        named = "" if branch.held_out.accuracy is None else f", {branch.held_out.accuracy:.1%} named rightly"
        scored = f"held-out loss {branch.held_out.loss:.4f} ± {branch.held_out.loss_se:.4f}{named}"
        listener(Note(f"{plural(branch.count, 'sample')}: {scored}"))
        if _enough(records, patience):
            listener(Note(f"the held-out loss has not fallen for {plural(patience, 'count')}: the ladder ends here"))
            return
        begun = time.monotonic()


def _record(run: ExternalRun, branch: Any, seconds: float, threads: int) -> RunRecord:
    scored, finite = branch.held_out, math.isfinite(branch.held_out.loss)
    error = 0.0 if scored.accuracy is None else math.sqrt(scored.accuracy * (1 - scored.accuracy) / scored.examples)
    return RunRecord(
        run=run,
        kind="ladder",
        status="finished" if finite else "diverged",
        loss=scored.loss if finite else None,
        loss_se=scored.loss_se if finite else None,
        train_loss=branch.train_loss,
        seconds=seconds,
        flops_spent=6.0 * run.num_params * branch.tokens,
        tokens_per_second=branch.tokens / seconds,
        finished_at=now(),
        environment=environment(threads),
        scores={} if scored.accuracy is None else {"accuracy": Score(scored.accuracy, error)},
    )


def _run(settings: dict[str, Any], pretrained: _Pretrained, count: int, tokens: int) -> ExternalRun:
    named = {key: value for key, value in settings.items() if isinstance(value, str | int | float)}
    return ExternalRun(
        trained_by="finetune",
        name=f"{count} samples",
        num_params=pretrained.num_params,
        counted="total",
        tokens=count,
        unit="sample",
        flops=6.0 * pretrained.num_params * tokens,
        batch_tokens=settings["batch"],
        lr=settings["lr"],
        seed=settings["seed"],
        loss_unit=pretrained.loss_unit,
        data=settings["data"],
        settings=named,
    )


def _fingerprint(examples: Sequence[Any]) -> str:
    """A hash of the examples as the model reads them."""
    text = repr([(e.tokens, e.first, *([] if e.label is None else [e.label])) for e in examples])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _before(study: Study, ladder: Any, listener: Listener) -> float:
    """The held-out loss of the pretrained model, measured once."""
    value = study.read("before.json")
    if value is None:
        scored = ladder.score()
        if not math.isfinite(scored.loss):
            raise UserError("the pretrained model's held-out loss is not finite: its weights are damaged")
        value = asdict(scored)
        study.write("before.json", value)
    listener(Note(f"before: held-out loss {value['loss']:.4f} ± {value['loss_se']:.4f}"))
    return value["loss"]


def _enough(records: list[RunRecord], patience: int) -> bool:
    """Whether the last ``patience`` counts are all no better than the best before them."""
    losses = [math.inf if record.loss is None else record.loss for record in sorted(records, key=lambda r: r.tokens)]
    return 0 < patience < len(losses) and min(losses[-patience:]) >= min(losses[:-patience])


def _save_model(model: Any, tokenizer: Any, path: Path) -> None:
    """The plain weights and the tokenizer, in a folder that is whole or not there."""
    import shutil

    from ...lm.export.new_folder import new_folder

    with new_folder(path.with_name(".new-model")) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    shutil.rmtree(path, ignore_errors=True)
    path.with_name(".new-model").rename(path)
