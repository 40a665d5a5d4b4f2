"""Distillation: the rungs of a study trained again with a teacher, each beside the run that had none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config.model import DecoderConfig
from ...config.run import RunConfig
from ...config.task import DistilledTextConfig, TextConfig
from ...data.corpus import Corpus, load_corpus
from ...errors import UserError
from ...extras import require_trainer
from ...files import replace_file
from ...ladder.climb import missing_jobs
from ...quantities import format_count, plural
from ...runs.record import RunRecord
from ...runs.study import Study
from ..choose_engine import for_ladder
from ..listener import Listener, Note, note_to, silent
from ..monitor import Monitor
from ..prepare import open_or_begin

TABLE = "students.csv"  # in the study: a row for each student, as the law of distillation reads them


@dataclass(frozen=True)
class Taught:
    """One student: its run alone and its run with the teacher, of equal size, tokens and FLOPs of its own."""

    alone: RunRecord
    taught: RunRecord

    def to_json(self) -> dict[str, Any]:
        return {
            "num_params": self.taught.num_params,
            "tokens": self.taught.tokens,
            "flops": self.taught.flops,
            "loss_alone": self.alone.loss,
            "loss": self.taught.loss,
            "alone": self.alone.id,
            "taught": self.taught.id,
        }


@dataclass(frozen=True)
class Distilled:
    """The study of the students, each beside its run without a teacher, and what the teacher was and cost.

    ``teacher_flops`` are those of the teacher's passes over all that the students read (trunks that several students
    share are counted once); they stand in no student's own FLOPs.
    """

    path: Path
    students: tuple[Taught, ...]
    teacher: str
    teacher_params: int
    teacher_loss: float
    teacher_flops: float

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "teacher": {
                "source": self.teacher,
                "num_params": self.teacher_params,
                "loss": self.teacher_loss,
                "flops": self.teacher_flops,
            },
            "students": [student.to_json() for student in self.students],
        }


def distill(
    source: Path | str,
    teacher: str,
    out: Path | str,
    *,
    widths: Sequence[int] = (),
    temperature: float = 1.0,
    share: float = 1.0,
    device: str = "auto",
    listener: Listener = silent,
) -> Distilled:
    """Train the rungs of a study again, taught by a larger model; the same call again goes on.

    A student has the model, the tokens, the batches, the rates and the seed of its rung, so the two differ by the
    teacher alone. The students are the ladder of the study ``out``, to which a law can be fitted as to any; its
    ``students.csv`` has their losses with and without the teacher, and the teacher's.

    Args:
        source: the study whose rungs are the students; its corpus is what they learn.
        teacher: STUDY/RUN, a folder of transformers, a GGUF file or a hub name that is in the local cache.
        out: the study of the students.
        widths: only rungs of these widths; by default all that are smaller than the teacher.
        temperature: of the teacher's probabilities, and of the student's in that part of the loss.
        share: of that part in the loss; the rest is the text's own cross-entropy.
        device: auto, cpu, cuda or mps.
        listener: receives what happens.

    Raises:
        UserError: no such study or teacher, the teacher's vocabulary is another one, no rung is small enough, or
            ``out`` holds something else; nothing is written then.
    """
    require_trainer("built_in")
    rungs = _text_rungs(Study.open(Path(source)), widths)
    corpus = load_corpus(Study(Path(source)).corpus_path)
    engine = for_ladder(device=device)
    how = {"temperature": temperature, "share": share}
    task_of(rungs[0], how | {"teacher": "?"})  # refuses a temperature or a share that cannot be
    students, facts, smaller = _begin(rungs, corpus, teacher, Path(out), how, not widths, listener)
    task = how | {"teacher": facts.fingerprint, "teacher_params": facts.num_params, "teacher_loss": facts.loss}
    pairs = [(record, _student(record, task)) for record in smaller]
    configs = [config for _, config in pairs]
    listener(Note(f"{plural(len(configs), 'student')} on {corpus.describe()}"))
    with students.session(), engine, Monitor(students, "ladder", configs, listener, workers=engine.workers) as monitor:
        engine.train(students, missing_jobs(students, configs, "ladder"), monitor)
    taught = tuple(Taught(record, students.ended(config.id)) for record, config in pairs)
    replace_file(students.path / TABLE, _table(taught, facts.loss).encode())
    cost = facts.flops_per_token * _tokens_read(configs)
    return Distilled(students.path, taught, facts.source, facts.num_params, facts.loss, cost)


def _text_rungs(study: Study, widths: Sequence[int]) -> list[RunRecord]:
    """The rungs of a study that can be taught.

    Raises:
        UserError: there is none.
    """
    rungs = [record for record in study.records("ladder") if _is_text_rung(record, widths)]
    if not rungs:
        of = f" of width {', '.join(map(str, widths))}" if widths else ""
        raise UserError(f"{study.path}: no finished rung{of} of the built-in decoder on text in it")
    return rungs


def _begin(
    rungs: list[RunRecord],
    corpus: Corpus,
    teacher: str,
    out: Path,
    how: dict[str, float],
    only_smaller: bool,
    listener: Listener,
) -> tuple[Study, Any, list[RunRecord]]:
    """The study of the students with its corpus and its teacher; the facts of the teacher; the rungs to be taught."""
    from ...lm.distillation.teacher import find_teacher, keep_teacher

    context = max(record.config.decoder.context for record in rungs)
    vocab_size = max(record.config.decoder.vocab_size for record in rungs)
    offered, own = find_teacher(teacher, corpus, context, vocab_size)
    size = format_count(offered.facts.num_params)
    smaller = [record for record in rungs if not only_smaller or record.num_params < offered.facts.num_params]
    if not smaller:
        raise UserError(f"--teacher {teacher}: has {size} parameters, and no rung has fewer; name some by --width")
    settings = {"distillation": how | {"teacher": offered.facts.fingerprint}}
    students = open_or_begin(out, settings, corpus, listener)
    with students.lock(note_to(listener)):
        facts = keep_teacher(offered, own, students, corpus, context, vocab_size).facts
    listener(Note(f"teacher: {facts.source}, {size} parameters, held-out loss {facts.loss:.4f}"))
    return students, facts, smaller


def _is_text_rung(record: RunRecord, widths: Sequence[int]) -> bool:
    """Whether a run finished, is of the built-in decoder on text without a teacher, and has one of the widths."""
    if record.external or record.status != "finished" or type(record.config.task) is not TextConfig:
        return False
    return isinstance(record.config.model, DecoderConfig) and (not widths or record.config.decoder.width in widths)


def task_of(record: RunRecord, values: dict[str, Any]) -> DistilledTextConfig:
    """The task of a rung with a teacher.

    Raises:
        UserError: a value is out of its range.
    """
    text = {key: value for key, value in record.config.text.to_dict().items() if key != "name"}
    return DistilledTextConfig.parse(text | values, "distillation")


def _student(record: RunRecord, values: dict[str, Any]) -> RunConfig:
    config = record.config
    return RunConfig(model=config.model, task=task_of(record, values), train=config.train, trainer=config.trainer)


def _table(students: Sequence[Taught], teacher_loss: float) -> str:
    rows = [["num_params", "tokens", "teacher_loss", "loss_alone", "loss"]]
    for one in students:
        values = one.taught.num_params, one.taught.tokens, teacher_loss, one.alone.loss, one.taught.loss
        rows += [[repr(value) for value in values]] if one.taught.loss is not None else []
    return "".join(",".join(row) + "\n" for row in rows)


def _tokens_read(configs: Sequence[RunConfig]) -> int:
    """The tokens that are read in training these runs: of a trunk the longest, and of each shorter run its decay."""
    longest: dict[str, int] = {}
    decays = 0
    for config in configs:
        length, schedule = config.tokens, config.schedule
        decays += length - schedule.tokens_before(schedule.decay_start)
        longest[config.trunk] = max(longest.get(config.trunk, 0), schedule.tokens_before(schedule.decay_start))
    return decays + sum(longest.values())
