"""How far along its run each row is, where a table of checkpoints says so in another way than by steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from ...field_names import normalise, without_keeper
from ..raw_table import RawTable

# Columns that hold the share of a run that is done, as a part or in percent.
_SHARES = """portionstepselapsed portion progress fraction fractiondone fractionoftraining trainfraction percentdone
percentcomplete pctcomplete pctdone progresspct progresspercent completion"""
SHARES = frozenset(_SHARES.split())
# Columns of what is done, and columns of what the whole run has.
DONE_AND_WHOLE = (
    ("epoch epochs currentepoch", "numepochs totalepochs maxepochs numtrainepochs nepochs epochs"),
    (
        "tokens tokensseen currenttokens ntokensseen numtokensseen tokenstrained tokensprocessed consumedtokens",
        "totaltokens totaltraintokens totaltrainingtokens tokenbudget maxtokens goaltraintokens targettokens",
    ),
)
# Columns that name a checkpoint.
_CHECKPOINTS = "checkpoint ckpt revision checkpointstep ckptstep snapshot checkpointname ckptname"
CHECKPOINTS = frozenset(_CHECKPOINTS.split())
STEP_AT_END = re.compile(r"[\s/_\-@:.#]*(?:global[_-]?)?(?:step|iter|ckpt|checkpoint|epoch)[\s_\-=:.]?[\d.,]+[kK]?$")


def run_of(label: str) -> str:
    """A label without the step at its end, which names a point of its run: ``m20/step_1000`` is of ``m20``."""
    return STEP_AT_END.sub("", label.strip()) or label


def is_named_checkpoint(column: str) -> bool:
    return normalise(without_keeper(column)) in CHECKPOINTS


def share_done(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, str] | None:
    """The share of its run that is done at each row, and a few words on which columns say so.

    Args:
        columns: the columns of numbers of a table by their own names; those that are fields too.

    Returns:
        None where no columns tell, or where all rows are ends.
    """
    named = {normalise(form): name for name in columns for form in (name, without_keeper(name))}
    for word in sorted(SHARES & named.keys()):
        values = columns[named[word]]
        known = values[np.isfinite(values)]
        whole = 1.0 if len(known) and known.max() <= 1 else 100.0
        if len(known) and known.min() >= 0 and known.max() <= whole and known.max() > 0.9 * whole:
            return values / whole, repr(named[word])
    for done, whole in DONE_AND_WHOLE:
        here, end = _first(named, done.split()), _first(named, whole.split())
        if here is None or end is None or here == end:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            share = columns[here] / columns[end]
        known = share[np.isfinite(share)]
        if len(known) == len(share) and known.max() <= 1 + 1e-6 and known.max() > 0.9 and known.min() < 0.999:
            return share, f"{here!r} is below {end!r}"
    return None


def share_by_checkpoint(table: RawTable, sizes: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, str] | None:
    """The share of the tokens of the longest row of its run, where a column names the checkpoint of each row."""
    names = [name for name in table.columns if is_named_checkpoint(name)]
    if not names or not np.isfinite(tokens).all():
        return None
    run = np.unique(np.nan_to_num(sizes), return_inverse=True)[1]
    for name, column in table.columns.items():
        if name in names or not column.is_text or len(column.codes[1]) > len(table) // 2:
            continue
        codes = column.codes[0][table.index]
        run = np.unique(run * (codes.max() + 1) + codes, return_inverse=True)[1]
    longest = np.zeros(run.max() + 1)
    np.maximum.at(longest, run, tokens)
    share = tokens / longest[run]
    return (share, f"{names[0]!r} names checkpoints") if (share < 0.999).any() else None


def _first(named: Mapping[str, str], words: Iterable[str]) -> str | None:
    return next((named[word] for word in words if word in named), None)
