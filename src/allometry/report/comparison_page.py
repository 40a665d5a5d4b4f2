"""Studies side by side: their laws, what the same budgets buy by each, and at which budget one overtakes another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from .. import planning
from ..errors import UserError
from ..files import replace_file
from ..laws.fitting.fit import GREEK
from ..planning import Overtaking
from ..quantities import format_count, format_flops
from ..runs.study import Study
from . import cells
from .cells import NONE, ReportCell, ReportRow, ReportTable, row
from .html import Picture, rendered
from .question import Predictor
from .study_contents import StudyContents, fits_of, weights_of

LEVEL = 0.9
BUDGETS = (1.0, 10.0, 100.0)  # of the largest run of all studies
BITS = "bits per byte"


@dataclass(frozen=True, eq=False)
class ComparedStudy:
    """One study of a comparison: a name for people, its contents and law, and what its losses are multiplied by."""

    name: str
    contents: StudyContents
    predictor: Predictor
    unit: float


def write_comparison(studies: Sequence[Study], path: Path | str) -> Path:
    """Write the page of two or more studies side by side.

    Raises:
        UserError: fewer than two studies, one without a law or damaged, losses in units that cannot be compared.
        OSError: the page cannot be written there.
    """
    replace_file(Path(path), render_comparison(studies).encode("utf-8"))
    return Path(path)


def render_comparison(studies: Sequence[Study]) -> str:
    """The page as text."""
    compared, unit = _compared(studies)
    pairs = [
        (one, other, planning.overtaking(one.predictor, other.predictor, units=(one.unit, other.unit), level=LEVEL))
        for one, other in combinations(compared, 2)
    ]
    sentences = [_sentence(one.name, other.name, each) for one, other, each in pairs]
    return rendered(
        "comparison.html.j2",
        names=[one.name for one in compared],
        unit=unit,
        sentences=sentences,
        cautions=_cautions(compared),
        pictures=_pictures(compared, pairs, unit),
        tables={"budgets": _budgets(compared), "studies": _side_by_side(compared), "constants": _constants(compared)},
    )


def _compared(studies: Sequence[Study]) -> tuple[list[ComparedStudy], str]:
    """The studies with their laws, and the unit in which they are compared."""
    if len({study.path.resolve() for study in studies}) < max(2, len(studies)):
        raise UserError("a comparison needs two or more different studies")
    contents = [StudyContents.of(study) for study in studies]
    for study, each in zip(studies, contents, strict=True):
        if each.predictor is None:
            raise UserError(f"{study.path}: no law yet to compare; run `allometry fit {study.path}` first")
    unit, units = _units(contents)
    names = _names([study.path for study in studies])
    rows = zip(names, contents, units, strict=True)
    return [ComparedStudy(name, each, each.predictor, one) for name, each, one in rows if each.predictor], unit


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _units(contents: Sequence[StudyContents]) -> tuple[str, list[float]]:
    """The common unit of the losses, and what each study's are multiplied by.

    Raises:
        UserError: the units differ, and a study does not know its bits per byte.
    """
    units = {each.unit for each in contents}
    tokenizers = {str((each.corpus or {}).get("tokenizer", "")) for each in contents}
    if len(units) == 1 and (len(tokenizers) == 1 or units == {"nats per byte"}):
        return units.pop(), [1.0] * len(contents)
    factors = []
    for each in contents:
        known = [r.bits_per_byte / r.loss for r in each.finished() if r.bits_per_byte and r.loss]
        if not known:
            raise UserError(
                f"{each.source}: its loss, in {each.unit}, cannot be turned into bits per byte, and the other study "
                "counts in another unit or by another tokenizer; compare studies of one unit"
            )
        factors.append(float(np.median(known)))
    return BITS, factors


def _sentence(first: str, second: str, each: Overtaking) -> str:
    """Who is ahead, and from which budget the other one is."""
    leader, other = (first, second) if each.leader == 0 else (second, first)
    start, end = format_flops(each.first.flops[0]), format_flops(each.first.flops[-1])
    if each.flops is None:
        sentence = f"{leader} has the lower predicted loss at {start} FLOPs and still at {end}"
    else:
        ends = "not known, as a law has no refits"
        if each.share is not None:
            ends = " to ".join(_end(end) for end in (each.low, each.high) if end is not None)
        sentence = (
            f"{leader} has the lower predicted loss up to {format_flops(each.flops)} FLOPs ({each.level:.0%} interval: "
            f"{ends}); beyond, {other} has"
        )
    if each.share is None:
        return f"{sentence}."
    return f"{sentence}. In {each.share:.0%} of the draws of both laws one overtakes the other within these budgets."


def _end(flops: float) -> str:
    """An end of the interval of a crossing."""
    if flops == 0:
        return "below all of these budgets"
    return format_flops(flops) if math.isfinite(flops) else "beyond all of them"


def _cautions(compared: Sequence[ComparedStudy]) -> list[str]:
    """What a reader must know before comparing these losses."""
    lines = []
    texts = {(each.contents.corpus or {}).get("fingerprint") for each in compared}
    if len(texts) > 1:
        lines.append(
            "The studies were measured on different held-out text: a lower loss there is an easier text, not a better "
            "model."
        )
    counts = {each.contents.counted for each in compared}
    if len(counts) > 1:
        words = ", ".join(f"{each.name}: {each.contents.counted}" for each in compared)
        lines.append(f"The laws count other parameters ({words}), so their FLOPs, 6·N·D, differ too.")
    return lines


def _pictures(
    compared: Sequence[ComparedStudy], pairs: Sequence[tuple[ComparedStudy, ComparedStudy, Overtaking]], unit: str
) -> dict[str, Picture]:
    from .pictures import comparison_drawn
    from .pictures.inline_svg import on_page

    lines = {}
    for one, other, each in pairs:
        lines.setdefault(one.name, each.first)
        lines.setdefault(other.name, each.second)
    runs = {
        each.name: [
            (record.id, each.contents.size(record), record.tokens, each.unit * record.loss)
            for record in each.contents.finished("ladder")
            if record.loss
        ]
        for each in compared
    }
    shown = [each for *_, each in pairs] if len(pairs) == 1 else []
    caption = (
        "Lines: the lowest predicted loss of each budget, 6·N·D, with its "
        f"{LEVEL:.0%} interval; dots: the runs of the ladders."
    )
    if any(each.flops for each in shown):
        caption += " Shaded upright: where one overtakes the other, with its interval."
    drawn = comparison_drawn.frontiers(lines, runs, shown, unit)
    heading = "Loss against compute"
    return {"frontiers": Picture(heading, caption, on_page(drawn, "frontiers", f"{heading}. {caption}"))}


def _budgets(compared: Sequence[ComparedStudy]) -> ReportTable:
    """What the same budgets buy by each law."""
    reach = max(each.predictor.range["flops"][1] for each in compared)
    rows: list[ReportRow] = []
    for factor in BUDGETS:
        for each in compared:
            try:
                best = planning.optimal(each.predictor, factor * reach, level=LEVEL)
            except UserError as error:
                rows.append(row(format_flops(factor * reach), each.name, str(error), NONE, NONE, NONE))
                continue
            ends = (None if end is None else each.unit * end for end in (best.low, best.high))
            rows.append(
                row(
                    cells.flops(factor * reach),
                    each.name,
                    cells.loss(each.unit * best.loss),
                    cells.interval(*ends),
                    cells.count(best.num_params),
                    cells.count(best.tokens),
                )
            )
    columns = ("budget (FLOPs)", "study", "loss", f"{LEVEL:.0%} interval", "best size", "tokens")
    return ReportTable(columns, tuple(rows), frozenset({"study"}))


def _side_by_side(compared: Sequence[ComparedStudy]) -> ReportTable:
    """What was trained, and how the law did, a column for each study."""

    def each(value) -> list[ReportCell | str]:
        return [value(one.contents) for one in compared]

    recipe = lambda name: each(lambda c: cells.value_of((c.recipe or {}).get(name, NONE)))
    rows = [
        row("text", *each(lambda c: c.source)),
        row("tokenizer", *each(_tokenizer)),
        row("runs in the law", *[str(one.predictor.num_runs) for one in compared]),
        row("largest run (FLOPs)", *[cells.flops(one.predictor.range["flops"][1]) for one in compared]),
        row("law of largest weight", *[next(iter(weights_of(one.predictor))) for one in compared]),
        row("learning rate", *recipe("lr")),
        row("which is", *each(lambda c: c.rate or NONE)),
        row("batch (tokens)", *recipe("batch_tokens")),
        row("weight decay", *recipe("weight_decay")),
        row("timescale of weight decay (tokens seen)", *recipe("weight_decay_timescale")),
        row("predicted loss of the target", *each(lambda c: cells.loss(c.outcome.predicted) if c.outcome else NONE)),
        row("actual loss of the target", *each(lambda c: cells.loss(c.outcome.actual) if c.outcome else NONE)),
        row("error", *each(lambda c: cells.optional(c.outcome.relative_error if c.outcome else None, "{:+.2%}"))),
    ]
    names = tuple(one.name for one in compared)
    return ReportTable(("", *names), tuple(rows), frozenset({"", *names}))


def _tokenizer(contents: StudyContents) -> str:
    tokenizer = (contents.corpus or {}).get("tokenizer", NONE)
    return tokenizer if isinstance(tokenizer, str) else f"{tokenizer['name']}, {tokenizer['vocab_size']} entries"


def _constants(compared: Sequence[ComparedStudy]) -> ReportTable:
    """The constants of every law, study by study."""
    rows = []
    for one in compared:
        for name in weights_of(one.predictor):
            fit = fits_of(one.predictor)[name]
            values = fit.values.items()
            words = ", ".join(f"{GREEK.get(symbol, symbol)} {format_constant(value)}" for symbol, value in values)
            rows.append(row(one.name, name, f"{weights_of(one.predictor)[name]:.2f}", fit.law.formula, words))
    columns = ("study", "law", "weight", "formula", "constants")
    return ReportTable(columns, tuple(rows), frozenset({"study", "law", "formula", "constants"}))


def format_constant(value: float) -> str:
    """A constant as people read it: short, and large ones with a suffix."""
    return format_count(value) if abs(value) >= 1000 else f"{value:.4g}"
