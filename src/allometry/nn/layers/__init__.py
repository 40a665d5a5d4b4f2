"""Modules under the names of ``torch.nn``.

- ``with_parameters``: linear maps, convolutions, embedding, norms; ``Parametrized``, the base of a layer of your own;
- ``stateless``: activations, gates, softmax, dropout, losses;
- ``kv_cache``: keys and values kept between calls of a decoder;
- ``transformer``: attention, MLP, transformer block, residual stack, decoder.
"""
