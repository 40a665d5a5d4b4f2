"""What earlier studies of the built-in decoder on text showed, as priors of a new one.

``benchmarks/tournament.py`` trains ladders on many texts with targets at 8 to 100 times their largest rung. The laws
of all of them have much in common: the exponents and the form hardly depend on the text, the floor lies between 0.3 and
1 nats a byte, and the losses of the targets come out somewhat above the law of their ladder, since runs as
short as a ladder's have not reached the power laws of long ones. A target that reads its text again comes out higher
still, by nothing to 4 % for each e-fold of passes. A text is predicted by what the other texts showed.

The floor belongs to a byte of text, so that of a token is as many times larger as a token has bytes. Short runs have
not reached the power laws, those on subwords less than those on bytes: their targets come out from 9 % below to 6 %
above the law of such a ladder at 8 times, below it on average.
"""

from __future__ import annotations

from dataclasses import replace

from ...laws import DriftPrior

LAWS = ("skaling",)
# Standard deviations over texts; the floor E is in nats a byte. With these the errors of 95 targets of 48 studies at
# 8 × are as large as the intervals say (rms 1.02), and 84 are inside (benchmarks/refit_ladders.py).
EXPONENTS = {"alpha": (0.62, 0.04), "beta": (0.46, 0.03), "k": (0.62, 0.07)}
FLOOR = (0.6, 0.1)
DRIFT = DriftPrior(slope=0.004, sd=0.003, cuts=40.0, freedom=30.0, repeat_slope=0.004, repeat_sd=0.008)
# Of ladders of subwords, by 13 studies that are 1.0 times as far off as intervals say; and of those of bytes whose
# longest run is shorter than this, by three.
SHORT_TOKENS = 1_000_000
EARLY_DRIFT = replace(DRIFT, slope=-0.010, sd=0.014, freedom=8.0)
LEAST_RUNS, LEAST_LENGTHS = 7, 5  # runs, and lengths of runs, for what earlier studies showed to be of any use
LEAST_TOKENS = 60_000  # shorter runs have hardly begun, and the law is that of the others


def priors(bytes_per_token: float) -> dict[str, dict[str, tuple[float, float]]]:
    """Of each law, its constants: mean and standard deviation; losses are nats a token."""
    mean, sd = FLOOR
    floor = mean * bytes_per_token, sd * bytes_per_token
    return {name: EXPONENTS | {"E": floor} for name in LAWS}
