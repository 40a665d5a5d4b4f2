"""Pairs of texts, as rows of bytes: messages and translations, questions and answers, descriptions and synopses."""

from __future__ import annotations

import gettext
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...quantities import plural
from .sample_set import Samples, Side, split_samples

MARK, END = 1, 2  # between text and answer, and after the answer
CHOICES = 4
DRAWS = 40  # until the wrong answers of a question are looked for one by one
Pair = tuple[str, str, str]  # text, answer, and the kind of answer that could be mistaken for it

HOW = {
    "translation": "translations are read from the .mo catalogues of one language under a folder "
    "(apt-get download gcc-12-locales alsa-utils iso-codes; dpkg-deb -x each DIR; then give DIR/…/locale/de)",
    "questions": "questions are read from a folder of files with lines `question:answer` "
    "(apt-get download bsdgames; dpkg-deb -x bsdgames_*.deb DIR; then give DIR/usr/share/games/bsdgames/quiz)",
    "summaries": "summaries are read from a file of package descriptions (apt-get -o Acquire::Languages=en update; "
    "/usr/lib/apt/apt-helper cat-file /var/lib/apt/lists/*Translation-en* > FILE)",
}


def encode_pair(text: bytes, answer: bytes, context: int) -> np.ndarray:
    """A row of ``context + 1`` bytes; the caller has seen to it that the pair fits."""
    row = np.zeros(context + 1, np.uint8)
    content = text + bytes([MARK]) + answer + bytes([END])
    row[: len(content)] = np.frombuffer(content, np.uint8)
    return row


def read_pairs(task: str, source: str, context: int) -> Samples:
    """The pairs of a source that fit into a context; the longer ones are left out, with a note.

    Raises:
        UserError: there are none; says how to get some.
    """
    path = Path(source)
    reader = {"translation": _catalogues, "questions": _quiz, "summaries": _descriptions}[task]
    try:
        pairs = list(reader(path))
    except OSError as error:
        raise UserError(f"{source}: {error.strerror or error}; {HOW[task]}") from None
    if not pairs:
        raise UserError(f"{source}: no pairs; {HOW[task]}")
    encoded = [(text.encode(), answer.encode(), kind) for text, answer, kind in pairs if text and answer]
    clean = [(a, b, kind) for a, b, kind in encoded if not {0, MARK, END} & set(a + b)]
    fitting = [each for each in clean if len(each[0]) + len(each[1]) + 2 <= context + 1]
    notes = ()
    if len(fitting) < len(encoded):
        notes = (f"{plural(len(encoded) - len(fitting), 'pair')} left out that do not fit a context of {context}",)
    if not fitting:
        raise UserError(f"{source}: no pair fits a context of {context}; give a longer context")
    arrays = {"row": np.stack([encode_pair(a, b, context) for a, b, _ in fitting])}
    if task == "questions":
        arrays["choices"] = _choices(fitting, context)
    samples = split_samples(task, source, arrays, {}, notes, near=_text_alone)
    train = {"row": samples.train["row"]}  # choices are for scoring only
    return Samples(task, source, train, samples.held_out, {}, samples.notes)


def _text_alone(arrays: Side, i: int) -> bytes:
    """The text of a pair without case and signs: two answers to one text are near copies."""
    text = arrays["row"][i].tobytes().partition(bytes([MARK]))[0]
    return re.sub(rb"[^\w]+", b"", text.lower())


def _choices(pairs: list[tuple[bytes, bytes, str]], context: int) -> np.ndarray:
    """For each question the right answer and three others of its kind, as rows."""
    by_kind: dict[str, set[bytes]] = {}
    for _, answer, kind in pairs:
        by_kind.setdefault(kind, set()).add(answer)
    of_kind = {kind: sorted(answers) for kind, answers in by_kind.items()}
    of_any = sorted(set().union(*by_kind.values()))
    rows = []
    for text, answer, kind in pairs:
        room, rng = context - 1 - len(text), random.Random(text + answer)
        wrong = _others(of_kind[kind], answer, room, rng) or _others(of_any, answer, room, rng) or [answer] * 3
        rows.append(np.stack([encode_pair(text, one, context) for one in (answer, *wrong)]))
    return np.stack(rows)


def _others(answers: list[bytes], answer: bytes, room: int, rng: random.Random) -> list[bytes]:
    """Wrong answers that fit, drawn evenly; none where there are too few."""
    fits = lambda one: one != answer and len(one) <= room
    drawn: dict[bytes, None] = {}
    for _ in range(DRAWS):  # all that fit are looked for only where they are rare
        if fits(one := rng.choice(answers)):
            drawn[one] = None
            if len(drawn) == CHOICES - 1:
                return [*drawn]
    left = [one for one in answers if fits(one)]
    return rng.sample(left, CHOICES - 1) if len(left) >= CHOICES - 1 else []


def _catalogues(folder: Path) -> Iterator[Pair]:
    """Messages and translations of every .mo file under a folder; one whose text is of another encoding has none."""
    for file in sorted(folder.rglob("*.mo")):
        try:
            with file.open("rb") as stream:
                catalogue: dict = vars(gettext.GNUTranslations(stream))["_catalog"]
        except UnicodeDecodeError:  # of what a system brings, now and then one states a wrong encoding
            continue
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{file}: no catalogue ({error}); leave it out") from None
        for message, translation in catalogue.items():
            if isinstance(message, str) and message and isinstance(translation, str) and message != translation:
                yield message.strip(), translation.strip(), ""


def _quiz(folder: Path) -> Iterator[Pair]:
    """The files of bsdgames' quiz: fields parted by colons, alternatives by bars, what may be left out in brackets."""
    for file in sorted(folder.iterdir()):
        if not file.is_file() or file.name in ("index", "datfiles"):
            continue
        for line in file.read_text(encoding="utf-8", errors="replace").replace("\\\n", "").splitlines():
            fields = [re.sub(r"\[[^]]*\]|[{}]", "", one).split("|")[0].strip() for one in line.split(":")]
            if len(fields) >= 2 and all(fields[:2]):
                yield fields[0], fields[1], file.name


def _descriptions(path: Path) -> Iterator[Pair]:
    """Long description → synopsis, of every paragraph of a control file that has both."""
    for paragraph in path.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        entry = re.search(r"^Description(?:-\w+)?: (.+)\n((?: .*(?:\n|$))+)", paragraph, re.MULTILINE)
        if entry:
            lines = [line.strip() for line in entry[2].splitlines()]
            text = " ".join("" if line == "." else line for line in lines).strip()
            yield text, entry[1].strip(), ""
