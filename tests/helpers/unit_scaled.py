"""Small unit-scaled models and what tests of them measure."""

import torch
from torch import Tensor

from allometry import nn


def rms(x: Tensor) -> float:
    """The root mean square of all entries, summed in float64."""
    return x.detach().double().square().mean().sqrt().item()


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Equal up to the rounding of float64 in sums of at most a few hundred terms."""
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def decoder(layers: int = 2, width: int = 16, heads: int = 2, vocab: int = 32, **options) -> nn.Decoder:
    """A decoder with the same weights at every call."""
    torch.manual_seed(0)
    return nn.Decoder(vocab, layers, width, heads, **options)


def next_token_loss(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """The cross-entropy of each token given those before it; tokens (batch, length)."""
    return nn.CrossEntropyLoss()(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def decoder_of(**options) -> nn.Decoder:
    """A small decoder whose rows of weights have unequal sizes, as training leaves them: heads attend sharply."""
    torch.manual_seed(1)
    model = nn.Decoder(31, 3, 32, 4, 40, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2 * torch.randn(parameter.shape[0], 1).mul(0.3).exp())
    return model.eval()
