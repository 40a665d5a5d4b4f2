"""Find: which columns of a table could hold a field, by their names, their units and what stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ..column_words import field_of
from ..field_names import COUNTED, FIELD_LETTERS, KNOWN, is_known, normalise, plain_forms, split_unit, without_keeper
from .raw_table import RawTable

# A column that is filled in fewer of the rows that count than this part of the fullest one is passed over.
LEAST_FILLED = 0.9
# Columns of a table that lists shapes, where one letter is rather a dimension than tokens or a loss.
_SHAPES = """layers nlayers nlayer numlayers depth heads nheads nhead numheads width dmodel hidden hiddensize nembd dff
ffn h"""
SHAPES = frozenset(_SHAPES.split())
MOST_LOSS_BY_LETTER = 50.0
# Words that may mean something else (a flag, a name): as a letter, they are judged by the magnitude of their numbers.
WEAK = frozenset({"active", "activated", "data", "context"})


class Found(NamedTuple):
    """A column that could hold a field; one of its cells counts ``factor``; ``stated`` if the user said so."""

    column: str
    factor: float = 1.0
    stated: bool = False


class ColumnSearch:
    """The columns of a table by every name that they answer to.

    Args:
        table: the columns.
        named_counts: fields that count things, whose columns may state a unit.
        of_words: fields that words may fill.
    """

    def __init__(self, table: RawTable, named_counts: frozenset[str], of_words: frozenset[str]):
        self.table, self.counts, self.of_words = table, named_counts, of_words
        self.rows = np.ones(len(table), bool)  # the rows that count: those with a loss, once its column is known
        self._by_words: dict[str, list[str]] = {}
        for column in table.columns:
            if not is_known(column) and (field := field_of(column) or field_of(without_keeper(column))) is not None:
                self._by_words.setdefault(field, []).append(column)
        self._by_name: dict[str, list[tuple[int, str, float]]] = {}
        for column in table.columns:
            bare, hidden = without_keeper(column), column.startswith("_")
            forms = [(0, column, 1.0), (1, bare, 1.0)]
            for rank, named in ((2, split_unit(column)), (3, split_unit(bare))):
                forms.append((rank, named.base, named.factor))
                forms += [(rank, form, named.factor) for form in plain_forms(named.base)]
            seen = set()
            for rank, form, factor in forms:
                if (name := normalise(form)) and name not in seen:
                    seen.add(name)
                    self._by_name.setdefault(name, []).append((rank + 4 * hidden, column, factor))

    def candidates(self, field: str, words: Iterable[str]) -> list[Found]:
        """The columns that could hold a field, the likeliest first.

        A column of words is taken for numbers only if there is no other, and one letter only if nothing longer fits.
        """
        ranked = []
        for order, word in enumerate(words):
            for rank, column, factor in self._by_name.get(word, []):
                if (factor != 1 and field not in self.counts) or self._is_training_loss(field, rank, column):
                    continue
                ranked.append(
                    (rank >= 4, len(word) == 1 or word in ("size", "data"), order, rank, Found(column, factor))
                )
        ranked.sort(key=lambda one: one[:4])
        if not ranked:  # no name is known as a whole: its words may say it
            ranked = [(False, False, 0, 0, Found(column, 1.0)) for column in self._by_words.get(field, ())]
        choices = list({one[4].column: one[4] for one in reversed(ranked)}.values())[::-1]
        if field in self.of_words:
            return choices
        numbers = [one for one in choices if not self.table.columns[one.column].is_text]
        if numbers or field not in ("num_params", "tokens", "loss"):
            return numbers
        return choices[:1]

    def filled(self, choices: list[Found], required: bool) -> tuple[list[Found], list[str]]:
        """The columns that are filled in the rows that count, and the names of those that were passed over."""
        # A cell such as 1.5B is odd, and filled.
        cells = [self.table.numbers(one.column) for one in choices]
        # A count of zero is a blank, as exports write it.
        there = [np.isfinite(values) & ((values != 0) | (len(choices) == 1)) | odd for values, odd in cells]
        counts = [int(one[self.rows].sum()) for one in there]
        enough = [count >= LEAST_FILLED * max(counts) and count > 0 for count in counts]
        kept = [one for one, good in zip(choices, enough, strict=True) if good]
        if not kept and required:
            return choices, []
        passed = [one.column for one, good in zip(choices, enough, strict=True) if not good]
        return kept, passed

    def values(self, choice: Found) -> np.ndarray:
        """The numbers of a column in the rows that count, in single units; nan where there is none."""
        return self.table.numbers(choice.column)[0][self.rows] * choice.factor

    def letter_fits(self, field: str, choice: Found, sizes: np.ndarray | None) -> bool:
        """Whether a column that is called by one letter can be the field, judged by its magnitude."""
        if len(name := normalise(choice.column)) > 1 and name not in WEAK:
            return True
        values = self.values(choice)
        values = values[np.isfinite(values)]
        if not len(values):
            return True  # numbers as people write them (1.5B), or nothing at all
        if field == "sequence_length":
            return bool(np.median(values) >= 8)
        if field == "active_params":
            whole = sizes if sizes is not None and len(sizes) == len(self.values(choice)) else np.inf
            active = self.values(choice)
            return bool(np.all((active <= whole) & (active >= 1e-3 * whole) | np.isnan(active))) and sizes is not None
        capital = name in FIELD_LETTERS and choice.column.strip().isupper()
        shapes = any(normalise(column) in SHAPES and column != choice.column for column in self.table.columns)
        if capital and not shapes:
            return True
        if field == "loss":
            return bool((values < MOST_LOSS_BY_LETTER).all() and (values % 1 != 0).any())
        if field == "tokens" and sizes is not None and len(sizes) and np.isfinite(sizes).any():
            return bool(np.median(values) >= 0.1 * np.nanmedian(sizes))
        return bool(np.median(values) >= 1e3)

    def equal(self, choices: list[Found]) -> bool:
        """Whether columns hold the same numbers."""
        first, *others = [self.values(one) for one in choices]
        return all(np.array_equal(first, other, equal_nan=True) for other in others)

    def same_name(self, choices: list[Found]) -> list[Found]:
        """The columns that answer to the same name as the first, as ``Loss`` and ``loss`` do."""
        return [one for one in choices if normalise(one.column) == normalise(choices[0].column)]

    def guess_loss(self) -> list[Found]:
        """The column of numbers that has loss in its name, if there is exactly one that no training set made.

        Raises:
            UserError: several.
        """
        named = [column for column in self.table.columns if "loss" in normalise(column)]
        candidates = [column for column in named if not self.table.columns[column].is_text] or named
        held_out = [c for c in candidates if re.search("val|eval|test|heldout|dev", normalise(c))]
        if len(held_out) == 1:
            candidates = held_out
        if len(candidates) > 1 and all(" - " in one for one in candidates):
            raise UserError(
                f"{self.table.name}: a chart with a column for each run, without sizes: export the table of the runs, "
                "with their parameters, tokens and loss"
            )
        if len(candidates) > 1:
            raise UserError(
                f"{self.table.name}: several columns could be the loss ({', '.join(candidates)}); "
                f"say which, e.g. columns={{'loss': {candidates[0]!r}}}"
            )
        if not candidates and "value" in self._by_name and "number" in self._by_name:  # Optuna's table of trials
            candidates = [self._by_name["value"][0][1]]
        return [Found(column) for column in candidates]

    def _is_training_loss(self, field: str, rank: int, column: str) -> bool:
        """``train/loss`` is no held-out loss, though it is a loss that is kept under ``train``."""
        return field == "loss" and rank % 4 in (1, 3) and normalise(column).startswith("train")


def counts_of(counted: str | None) -> list[str]:
    """Names of a column of parameters, counted one way or any.

    Of experts the active ones go first, as they cost the FLOPs; then the non-embedding ones, as laws usually count.
    """
    bare = KNOWN["num_params"]
    if counted is not None:
        return [*COUNTED[counted].split(), *bare]
    words = [COUNTED[one].split() for one in ("active", "non_embedding")]
    return [*words[0], *words[1], *bare, *COUNTED["matmul"].split(), *COUNTED["total"].split()]
