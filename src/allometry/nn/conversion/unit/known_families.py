"""Models of transformers whose unit-scaled counterpart is a :class:`~allometry.nn.Decoder` with options.

Their forward passes cannot be traced (decorators, caches, masks that depend on the call), and need not be: the family
is known by its class, and its shape stands in its configuration.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ...layers.transformer import Decoder

_GATED = {"silu": "swiglu", "gelu": "geglu"}
_FAMILIES = {"LlamaForCausalLM": False, "Qwen3ForCausalLM": True}  # whether queries and keys are normalised


def counterpart_of_family(model: nn.Module) -> Decoder | None:
    """A fresh decoder of the same shape, from tokens to logits; None for what is no model of transformers.

    The rotary base is 10000, whatever the model's; norms have no gains.

    Raises:
        ValueError: a model of transformers that has no such counterpart.
    """
    if not any(kind.__name__ == "PreTrainedModel" for kind in type(model).__mro__):
        return None
    name, config = type(model).__name__, _Fields(model)
    if name not in _FAMILIES:
        known = " and ".join(_FAMILIES)
        raise ValueError(
            f"model: the unit rule knows {known} of transformers, not {name}; build it of nn's layers, or give "
            "rule='absmax' or 'rms', which keep the weights"
        )
    head_dim = config.hidden_size // config.num_attention_heads
    if config.head_dim not in (None, head_dim) or config.hidden_act not in _GATED or config.attention_bias:
        raise ValueError(
            f"model: the unit rule has no counterpart of {name} with heads of {config.head_dim}, "
            f"{config.hidden_act} and biases {bool(config.attention_bias)}; it needs heads of {head_dim}, silu or "
            "gelu, and no biases"
        )
    decoder = Decoder(
        config.vocab_size,
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        tied=bool(config.tie_word_embeddings),
        kv_heads=config.num_key_value_heads,
        activation=_GATED[config.hidden_act],
        eps=config.rms_norm_eps,
        qk_norm=_FAMILIES[name],
        out_norm=False,
    )
    return decoder.train(model.training)


class _Fields:
    """The fields of a model's configuration; None for one that it has not."""

    def __init__(self, model: nn.Module):
        self._config: Any = model.config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name, None)
