"""The model that a run trains: one member of a family, with its parameters and FLOPs under every convention in use.

The counts are computed from the configuration alone, without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from .base import Config, OneOf

# Parametrisation → what a learning rate is under it.
RATES = {"umup": "a u-μP base rate, no AdamW rate", "sp": "a rate of the standard parametrisation (sp)"}


def kind_of_rate(model: Mapping[str, Any]) -> str | None:
    """What the learning rate of a run is, by the fields of its model; None where a program trains it."""
    return RATES.get("umup" if model.get("family") == "decoder" else model.get("parametrization", ""))


class ModelConfig(OneOf):
    """One member of a family; ``family`` names the family, and a subclass has the fields that determine the shape.

    Scaling laws need the counts. ``num_params`` is non-embedding: it excludes tables that are only looked up, and the
    head. ``num_params_matmul`` counts the parameters by which one unit of data is multiplied, including the head.
    """

    key: ClassVar[str] = "family"
    plural: ClassVar[str] = "families"
    default_kind: ClassVar[str] = "decoder"

    family: str
    width: int = Field(ge=8)

    @property
    def num_params(self) -> int:
        """Non-embedding parameters."""
        raise NotImplementedError

    @property
    def num_params_matmul(self) -> int:
        """Parameters by which one unit of data is multiplied, including the head."""
        raise NotImplementedError

    @property
    def num_params_total(self) -> int:
        """All parameters."""
        raise NotImplementedError

    @property
    def flops_per_token(self) -> float:
        """Forward and backward FLOPs for one unit of data, computed from the shapes."""
        raise NotImplementedError

    @property
    def row_tokens(self) -> int:
        """Units of data in one row of a batch: the context of a language model, 1 of a classifier."""
        return 1

    @property
    def stackable(self) -> bool:
        """Whether several of these models can be trained as one batched model."""
        return False


Norms = Literal["pre+out", "pre"]
Activation = Literal["swiglu", "geglu", "relu", "relu2", "gelu", "silu"]
GATED = ("swiglu", "geglu")


class DecoderConfig(ModelConfig, kind="decoder"):
    """The built-in language model, a decoder-only transformer: RMSNorm, RoPE, causal attention.

    ``norms`` says where norms stand in a block: "pre+out" at the head of each branch and before the out-projection of
    attention, "pre" at the heads only, as in Llama. ``kv_heads`` heads of keys and values (by default as many as
    ``heads``) are shared by the heads of queries; ``qk_norm`` divides each query and key by its root mean square;
    ``tied`` uses one table for embedding and head.
    """

    family: Literal["decoder"] = "decoder"
    layers: int = Field(ge=1)
    head_dim: int = Field(default=16, ge=2, multiple_of=2)
    hidden: int = Field(ge=8)
    vocab_size: int = Field(default=256, ge=2)
    context: int = Field(default=128, ge=2)
    kv_heads: int | None = Field(default=None, ge=1)
    tied: bool = False
    norms: Norms = "pre+out"
    activation: Activation = "swiglu"
    qk_norm: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.head_dim:
            raise ValueError(f"width {self.width} is not a multiple of head_dim {self.head_dim}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide {self.heads} heads of queries")
        return self

    def identity(self) -> dict[str, Any]:
        given = super().identity()
        if self.kv_heads == self.heads:  # the default, written out
            del given["kv_heads"]
        return given

    @property
    def heads(self) -> int:
        """Heads of queries."""
        return self.width // self.head_dim

    @property
    def kv_width(self) -> int:
        """Features of all keys, and of all values."""
        return (self.kv_heads or self.heads) * self.head_dim

    @property
    def up_width(self) -> int:
        """Features that the first map of an MLP gives: those of gate and value together, if it is gated."""
        return (2 if self.activation in GATED else 1) * self.hidden

    @property
    def stackable(self) -> bool:
        return self.plain

    @property
    def plain(self) -> bool:
        """Whether no option is used: the shape that compiled kernels and batched models are written for."""
        options = self.tied, self.norms, self.activation, self.qk_norm, self.kv_width
        return options == (False, "pre+out", "swiglu", False, self.width)

    @property
    def num_params(self) -> int:
        """Non-embedding parameters: the weights of the blocks, without embedding and head."""
        attention = 2 * self.width * (self.width + self.kv_width)
        return self.layers * (attention + self.width * (self.up_width + self.hidden))

    @property
    def num_params_matmul(self) -> int:
        """Parameters by which a token is multiplied: the blocks and the head."""
        return self.num_params + self.vocab_size * self.width

    @property
    def num_params_total(self) -> int:
        """All parameters: blocks, embedding and head, which may be one table."""
        return self.num_params + (1 if self.tied else 2) * self.vocab_size * self.width

    @property
    def flops_per_token(self) -> float:
        """Forward and backward FLOPs for one token: 6 for each matmul parameter, plus causal attention.

        A position attends to (context + 1)/2 positions on average, each for 12·width FLOPs in each layer.
        """
        attention = 12 * self.layers * self.width * (self.context + 1) / 2
        return 6 * self.num_params_matmul + attention

    @property
    def row_tokens(self) -> int:
        return self.context


class ModuleConfig(ModelConfig, kind="module"):
    """A PyTorch module of the user's: what a function from the width (and ``fields``) returns.

    ``function`` is its name, ``code`` the fingerprint of its file and of what that imports from its own folder,
    ``source`` how the user named it. ``parametrization`` is "sp" (the module as it is, one learning rate) or "umup"
    (made unit-scaled). The rest follows from these and from the task, was measured when the member was made
    (:mod:`allometry.lm.modules`), and is no part of the identity.
    """

    family: Literal["module"] = "module"
    width: int = Field(ge=1)
    function: str
    code: str
    source: str
    fields: dict[str, JsonValue] = Field(default={})
    parametrization: Literal["sp", "umup"] = "sp"
    input_shape: tuple[int, ...]
    input_high: int = Field(default=0, ge=0)  # inputs are integers below it; 0: real numbers
    units: int = Field(default=1, ge=1)
    counted: tuple[int, int, int]
    unit_flops: float = Field(gt=0)
    row_bytes: float = Field(ge=0)

    def __hash__(self) -> int:
        return hash(json.dumps(self.identity(), sort_keys=True))

    def identity(self) -> dict[str, Any]:
        follows = {"source", "input_shape", "input_high", "units", "counted", "unit_flops", "row_bytes"}
        return {key: value for key, value in super().identity().items() if key not in follows}

    @property
    def num_params(self) -> int:
        """Parameters without tables that are only looked up and without the last linear map."""
        return self.counted[0]

    @property
    def num_params_matmul(self) -> int:
        """Parameters without tables that are only looked up."""
        return self.counted[1]

    @property
    def num_params_total(self) -> int:
        """All parameters."""
        return self.counted[2]

    @property
    def flops_per_token(self) -> float:
        """Forward and backward FLOPs for one unit of data, as PyTorch counts them."""
        return self.unit_flops

    @property
    def row_tokens(self) -> int:
        return self.units


class DecoderOptions(Config):
    """What the decoders of one study have in common, whatever their width; :mod:`allometry.ladder.shape` applies it.

    ``preset`` sets the options that are not given: "llama" (norms "pre", gated SiLU) or "gpt2" (norms "pre", GELU
    without a gate, tied head; but with RMSNorm, RoPE and no biases). ``layers`` is the depth at every width;
    ``width_per_layer`` lets the depth grow as the width; with neither, it follows the rule of that module.
    ``queries_per_kv`` is the number of query heads that share keys and values.
    """

    preset: Literal["llama", "gpt2"] | None = None
    layers: int | None = Field(default=None, ge=1, le=1000)
    width_per_layer: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    head_dim: int | None = Field(default=None, ge=2, multiple_of=2)
    hidden_per_width: float | None = Field(default=None, gt=0, le=64)
    queries_per_kv: int = Field(default=1, ge=1)
    tied: bool | None = None
    norms: Norms | None = None
    activation: Activation | None = None
    qk_norm: bool = False

    @model_validator(mode="after")
    def _one_depth(self) -> Self:
        if self.layers is not None and self.width_per_layer is not None:
            raise ValueError("give either layers or width_per_layer")
        return self

    @property
    def fields(self) -> dict[str, Any]:
        """Those fields of a :class:`DecoderConfig` that do not depend on the width; options win over the preset."""
        own = {"tied": self.tied, "norms": self.norms, "activation": self.activation}
        chosen = _PRESETS[self.preset] | {name: value for name, value in own.items() if value is not None}
        return chosen | {"qk_norm": self.qk_norm}


_PRESETS: dict[str | None, dict[str, Any]] = {
    None: {"tied": False, "norms": "pre+out", "activation": "swiglu"},
    "llama": {"tied": False, "norms": "pre", "activation": "swiglu"},
    "gpt2": {"tied": True, "norms": "pre", "activation": "gelu"},
}
