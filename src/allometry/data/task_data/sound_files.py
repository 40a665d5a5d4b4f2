"""Speech as bytes: every sample of a sound file as one of 256 levels of μ-law (ITU-T G.711), a file a document."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from ...errors import UserError
from ..corpus import Corpus
from ..shards import fingerprint
from ..split import FEW, keys_of, split

MU = 255.0
HOW = (
    "speech is read from a folder with .wav files of 16 bits and one channel, such as Debian's "
    "(apt-get download asterisk-core-sounds-en-wav; dpkg-deb -x asterisk-core-sounds-en-wav_*.deb DIR)"
)


def read_speech(source: str) -> Corpus:
    """The sound files under a folder.

    Raises:
        UserError: there are none; says how to get some.
    """
    files = sorted(Path(source).rglob("*.wav")) if Path(source).is_dir() else []
    if not files:
        raise UserError(f"{source}: no sound files; {HOW}")
    clips = [_levels(file) for file in files]
    chosen = split(keys_of(clips))
    if len(clips) < FEW or not chosen.held_out.any():
        raise UserError(f"{source}: {len(clips)} sound files are too few; {FEW} are the least")
    train, held_out = (
        np.frombuffer(b"".join(clips[i] for i in np.flatnonzero(side)), np.uint8)
        for side in (chosen.train, chosen.held_out)
    )
    return Corpus(
        train, held_out, source, fingerprint([train], [held_out], "speech"), int(chosen.kept.sum()), chosen.copies, 0
    )


def _levels(file: Path) -> bytes:
    try:
        with wave.open(str(file)) as sound:
            if sound.getsampwidth() != 2 or sound.getnchannels() != 1:
                raise UserError(f"{file}: {8 * sound.getsampwidth()} bits, {sound.getnchannels()} channels; {HOW}")
            samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    except (wave.Error, EOFError, OSError) as error:
        raise UserError(f"{file}: no sound file ({error}); leave it out") from None
    x = samples.astype(np.float64) / 32768
    y = np.sign(x) * np.log1p(MU * np.abs(x)) / np.log1p(MU)
    return np.clip(np.round((y + 1) * 127.5), 0, 255).astype(np.uint8).tobytes()
