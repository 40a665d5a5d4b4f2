"""Modules of a user's, for tests: a convolutional net, and faults."""

import torch
from torch import nn


def conv(width, shape, classes, dropout=0.0):
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(2 * width * ((shape[1] - 1) // 2) * ((shape[2] - 1) // 2), classes),
    )


def mlp(width, shape, classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, classes),
    )  # fmt: skip


def decoder(width, vocab_size):
    """The built-in decoder as a module of somebody's."""
    from allometry import nn as unit

    return unit.Decoder(vocab_size, 2, width, width // 8, 24)


def ignores_width(width, shape, classes):
    return mlp(16, shape, classes)


def empty(width, shape, classes):
    return nn.Flatten()


def other_shape(width, shape, classes):
    return mlp(width, shape, classes + 1)


def no_module(width):
    return width


def raises(width, shape, classes):
    raise RuntimeError("the disk of weights is not mounted")


class Noisy(nn.Module):
    """Another output each time it is asked."""

    def __init__(self, width, shape, classes):
        super().__init__()
        self.net, self.calls = mlp(width, shape, classes), 0

    def forward(self, x):
        self.calls += 1
        return self.net(x) + next(NOISE)


def _noise():
    import random

    while True:
        yield random.SystemRandom().random()


NOISE = _noise()


def drawn(width, shape, classes):
    """Weights that the seed does not decide."""
    net = mlp(width, shape, classes)
    with torch.no_grad():
        net[1].weight.add_(next(NOISE))
    return net


class NotFinite(torch.nn.Module):
    """A division by zero in the first step."""

    def __init__(self, width, shape, classes):
        super().__init__()
        self.net = mlp(width, shape, classes)

    def forward(self, x):
        return self.net(x) / (x.sum() - x.sum())
