"""How much of a text a tokenizer loses: unknown tokens, and characters that decoding does not give back.

Bits a byte divide by all bytes of the text. What a tokenizer drops, folds or calls unknown costs a model nothing, so a
lossy tokenizer makes its losses look better than they are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import UserError
from .tokenizer import Subwords

SAMPLE = 1 << 20  # bytes of held-out text that are judged
PIECE = 256  # characters that are compared at a time
MOST_LOST = 0.03
WORTH_SAYING = 1e-4


@dataclass(frozen=True)
class TokenizerLosses:
    """What a tokenizer loses of a text.

    Attributes:
        name: of the tokenizer.
        tokens: of the sample; ``unknown`` is how many of them stand for anything unknown.
        characters: of the sample; ``lost`` is how many of them decoding does not give back.
    """

    name: str
    tokens: int
    unknown: int
    characters: int
    lost: int

    @property
    def unknown_share(self) -> float:
        return self.unknown / self.tokens if self.tokens else 0.0

    @property
    def lost_share(self) -> float:
        return self.lost / self.characters if self.characters else 0.0

    def describe(self) -> str:
        """One sentence on what is lost."""
        return (
            f"{self.name}: {self.unknown_share:.2%} of the held-out tokens are unknown, and {self.lost_share:.2%} of "
            "its characters do not come back"
        )


def measure_losses(tokenizer: Subwords, texts: Iterable[bytes]) -> TokenizerLosses:
    """What a tokenizer loses of the first million bytes of texts."""
    unknown = _unknown_token(tokenizer)
    tokens = unknowns = characters = lost = size = 0
    for text in texts:
        if size >= SAMPLE:
            break
        part = text[: SAMPLE - size].decode("utf-8", errors="ignore")
        size += len(text)
        for start in range(0, len(part), PIECE):
            piece = part[start : start + PIECE]
            ids = tokenizer.encode(piece)
            restored = tokenizer.decode([one for one in ids if one != unknown])
            tokens, unknowns = tokens + len(ids), unknowns + sum(one == unknown for one in ids)
            # A blank before the first word is how some tokenizers begin every text.
            wanted, there = Counter(piece.strip()), Counter(restored.strip())
            characters, lost = characters + len(piece.strip()), lost + (wanted - there).total()
    return TokenizerLosses(tokenizer.name, tokens, unknowns, characters, lost)


def check_losses(tokenizer: Subwords, texts: Iterable[bytes]) -> list[str]:
    """A note on what a tokenizer loses of held-out texts, if anything.

    Raises:
        UserError: more than a few per cent.
    """
    losses = measure_losses(tokenizer, texts)
    if max(losses.unknown_share, losses.lost_share) > MOST_LOST:
        raise UserError(
            f"{losses.describe()}: bits a byte would count that text as free; give a tokenizer that has bytes to fall "
            "back on, such as bpe:8192 or gpt2"
        )
    if max(losses.unknown_share, losses.lost_share) > WORTH_SAYING:
        return [f"{losses.describe()}; bits a byte flatter it by as much"]
    return []


def _unknown_token(tokenizer: Subwords) -> int | None:
    """The id of the token for anything unknown; None if the model has none."""
    model = json.loads(tokenizer.content).get("model") or {}
    if isinstance(model.get("unk_id"), int):
        return model["unk_id"]
    name = model.get("unk_token")
    return tokenizer.id_of(name) if isinstance(name, str) else None
