"""A pretrained model fine-tuned on a ladder of sample counts, with a record of each, and the law of the counts."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...config.external import ExternalRun
from ...errors import UserError
from ...extras import require
from ...runs.record import RunRecord, environment, now
from ...runs.study import Study
from ..listener import Listener, Note, silent
from .sample_law import SampleLaw, fit_sample_law


@dataclass(frozen=True)
class FineTuned:
    """The study, its records by growing count, the loss before any training, and the law if there are enough counts."""

    path: Path
    records: tuple[RunRecord, ...]
    before: float
    law: SampleLaw | None
    best: Path | None

    def to_json(self) -> dict[str, Any]:
        rows = [{"samples": r.tokens, "loss": r.loss, "loss_se": r.loss_se, "run": r.id} for r in self.records]
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

    Args:
        model: a folder, a GGUF file, or a name on the hub that is in the local cache.
        data: JSONL of prompt and completion (or text), or a text.
        out: the study; the model of the best count goes to its folder ``model``.
        context: the most tokens of an example.
        held_out: the number of examples that no training sees.
        listener: receives what happens.
        **options: the fields of :class:`~allometry.lm.finetuning.sample_ladder.FineTuning`.

    Raises:
        UserError: no such model or data, options out of their range, or ``out`` holds something else.
    """
    require("torch", "transformers", "safetensors")
    from ...lm.finetuning.examples import read_examples, split
    from ...lm.finetuning.pretrained_model import context_of, load_pretrained
    from ...lm.finetuning.sample_ladder import FineTuning, SampleLadder

    asked = FineTuning(**options)
    loaded, tokenizer = load_pretrained(model)
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    length = context_of(loaded, context)
    examples = read_examples(Path(data), encode, tokenizer.eos_token_id, length)
    train, held = split(examples, asked.seed, held_out)
    num_params = sum(parameter.numel() for parameter in loaded.parameters())
    ladder = SampleLadder(loaded, train, held, asked, say=lambda text: listener(Note(text)))
    settings = asdict(asked) | {"model": Path(model).name, "context": length, "held_out": held_out}
    settings |= {"counts": list(asked.counts), "data": Path(data).name, "examples": _fingerprint(examples)}
    study = Study.create(Path(out), {"finetune": settings})
    runs = {count: _run(settings, num_params, count) for count in asked.counts}
    records = [record for run in runs.values() if (record := study.record(run.id)) is not None]
    before = _before(study, ladder, listener)
    done = max((record.tokens for record in records), default=0)
    begun = time.monotonic()
    for branch in () if _enough(records, asked.patience) else ladder.branches(study.trunk_path("finetune"), done):
        record = RunRecord(
            run=runs[branch.count],
            kind="ladder",
            status="finished" if math.isfinite(branch.loss) else "diverged",
            loss=branch.loss if math.isfinite(branch.loss) else None,
            loss_se=branch.loss_se,
            train_loss=branch.train_loss,
            seconds=time.monotonic() - begun,
            flops_spent=6.0 * num_params * branch.tokens,
            tokens_per_second=branch.tokens / (time.monotonic() - begun),
            finished_at=now(),
            environment=environment(ladder.threads),
        )
        if record.loss is not None and record.loss < min((r.loss for r in records if r.loss), default=math.inf):
            _save_model(loaded, tokenizer, study.path / "model")
        study.save(record, [])
        records.append(record)
        listener(Note(f"{branch.count} samples: held-out loss {branch.loss:.4f} ± {branch.loss_se:.4f}"))
        if _enough(records, asked.patience):
            listener(Note(f"the held-out loss has not fallen for {asked.patience} counts: the ladder ends here"))
            break
        begun = time.monotonic()
    kept = tuple(sorted(records, key=lambda record: record.tokens))
    points = [(record.tokens, record.loss) for record in kept if record.loss is not None]
    law = fit_sample_law(points) if len(points) >= 3 else None
    best = study.path / "model"
    return FineTuned(study.path, kept, before, law, best if best.is_dir() else None)


def _run(settings: dict[str, Any], num_params: int, count: int) -> ExternalRun:
    named = {key: value for key, value in settings.items() if isinstance(value, str | int | float)}
    return ExternalRun(
        trained_by="finetune",
        name=f"{count} samples",
        num_params=num_params,
        counted="total",
        tokens=count,
        unit="sample",
        batch_tokens=settings["batch"],
        lr=settings["lr"],
        seed=settings["seed"],
        loss_unit="nats per token of a completion",
        data=settings["data"],
        settings=named,
    )


def _fingerprint(examples: Sequence[Any]) -> str:
    """A hash of the examples as the model reads them."""
    text = repr([(example.tokens, example.first) for example in examples])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _before(study: Study, ladder: Any, listener: Listener) -> float:
    """The held-out loss of the pretrained model, measured once."""
    value = study.read("before.json")
    if value is None:
        loss, error = ladder.score()
        if not math.isfinite(loss):
            raise UserError("the pretrained model's held-out loss is not finite: its weights are damaged")
        value = {"loss": loss, "loss_se": error}
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
