"""Unit-scaled layers without parameters: activations, gates, softmax, dropout, losses; names as in ``torch.nn``."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from .. import functional as F
from ..ops.activations import activation
from ..ops.arguments import check_constraint
from ..ops.autograd import Constants
from ..ops.losses import check_loss


class Activation(nn.Module):
    """An activation at unit scale: the base of the classes below, each of which names its ``function``."""

    function: ClassVar[str]

    def __init__(self, inplace: bool = False, *, constraint: str | None = None):
        super().__init__()
        check_constraint(constraint)
        if not isinstance(inplace, bool):
            raise TypeError(f"inplace: {inplace!r}; {type(self).__name__} takes no parameter of its own")
        self.constraint = constraint  # ``inplace`` is torch's, and has no effect here

    def forward(self, x: Tensor) -> Tensor:
        return activation(self.function, x, self.constraint)

    def extra_repr(self) -> str:
        return f"constraint={self.constraint!r}" if self.constraint else ""


class ReLU(Activation):
    """√2·max(x, 0)."""

    function: ClassVar[str] = "relu"


class ReLU2(Activation):
    """max(x, 0)² at unit scale."""

    function: ClassVar[str] = "relu2"


class GELU(Activation):
    """GELU at unit scale."""

    function: ClassVar[str] = "gelu"


class SiLU(Activation):
    """SiLU at unit scale."""

    function: ClassVar[str] = "silu"


class Tanh(Activation):
    """tanh at unit scale."""

    function: ClassVar[str] = "tanh"


class Sigmoid(Activation):
    """The logistic function at unit scale."""

    function: ClassVar[str] = "sigmoid"


class Softplus(Activation):
    """log(1 + eˣ) at unit scale."""

    function: ClassVar[str] = "softplus"


class Softmax(nn.Module):
    """The softmax over ``dim``, its entries at unit scale; they sum to a constant and not to 1."""

    def __init__(self, dim: int = -1, *, multiplier: float = 1.0, constraint: str | None = None):
        super().__init__()
        check_constraint(constraint)
        self.dim, self.multiplier, self.constraint = dim, Constants(multiplier), constraint

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, self.dim, multiplier=self.multiplier()[0], constraint=self.constraint)


class Dropout(nn.Module):
    """Zeros entries with probability ``p`` in training and keeps the root mean square."""

    def __init__(self, p: float = 0.5):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p: {p} is not a share of entries to drop; give 0 ≤ p < 1")
        self.p = Constants(p)

    def forward(self, x: Tensor) -> Tensor:
        (p,) = self.p()
        return F.dropout(x, p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p.values[0]:g}"


class _GLU(nn.Module):
    function: ClassVar[str]

    def __init__(self, dim: int = -1, *, constraint: str | None = None):
        super().__init__()
        check_constraint(constraint)
        self.dim, self.constraint = dim, constraint

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[self.dim] % 2:
            raise ValueError(f"x: size {x.shape[self.dim]} of dimension {self.dim} is odd; a gate needs two halves")
        return getattr(F, self.function)(*x.chunk(2, self.dim), constraint=self.constraint)


class SwiGLU(_GLU):
    """``silu(first half) · second half`` at unit scale: (…, 2n) → (…, n)."""

    function: ClassVar[str] = "swiglu"


class GEGLU(_GLU):
    """``gelu(first half) · second half`` at unit scale: (…, 2n) → (…, n)."""

    function: ClassVar[str] = "geglu"


class CrossEntropyLoss(nn.Module):
    """Cross-entropy in nats, each counted row's gradient at unit scale; see functional.cross_entropy."""

    def __init__(self, *, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0):
        super().__init__()
        check_loss(reduction, label_smoothing)
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        options = {"ignore_index": self.ignore_index, "label_smoothing": self.label_smoothing}
        return F.cross_entropy(logits, targets, reduction=self.reduction, **options)


class MSELoss(nn.Module):
    """Mean squared error, its gradient at unit scale."""

    def __init__(self, *, reduction: str = "mean"):
        super().__init__()
        check_loss(reduction)
        self.reduction = reduction

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(predictions, targets, reduction=self.reduction)
