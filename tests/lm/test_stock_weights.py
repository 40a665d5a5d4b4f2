"""The folding is exact: a stock architecture, written down independently, computes our function from its weights."""

import pytest
import torch

from allometry.data.tokenizer import Bytes
from allometry.errors import UserError
from allometry.lm.export.hugging_face_folder import write_hugging_face
from allometry.lm.export.stock_weights import stock_architecture
from helpers.builders import model_config
from helpers.stock_models import EXPORTED, error, in_float64, stock_logits, uneven


@pytest.mark.parametrize("options", EXPORTED.values(), ids=EXPORTED)
@pytest.mark.parametrize("size", [1.0, 3.0])
def test_the_stock_function_of_the_weights_is_ours(options, size, tmp_path):
    model = uneven(size=size, **options)
    write_hugging_face(model, Bytes(), tmp_path / "x")
    tokens = torch.randint(256, (2, 32))
    truth = in_float64(model, tokens)
    with torch.no_grad():
        own = error(model(tokens), truth)
    assert error(stock_logits(tmp_path / "x", tokens), truth) < 2 * own < 2e-5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"activation": "relu2"}, 'activation = "swiglu" or "geglu"'),
        ({"activation": "gelu", "norms": "pre"}, 'activation = "swiglu" or "geglu"'),
        ({"qk_norm": True}, 'norms = "pre"'),
    ],
)
def test_what_no_stock_class_computes_names_the_option_that_would(options, reason):
    with pytest.raises(UserError, match=reason):
        stock_architecture(model_config(**options))
