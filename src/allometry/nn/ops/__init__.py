"""Unit-scaled operations and their exact constants. :mod:`allometry.nn.functional` collects the public ones.

- ``scale``: the primitive, a factor forward and another backward; the constants of elementwise functions;
- ``products``: linear maps, convolutions and embeddings, with their factors inside the product;
- ``activations``: activations, gates, dropout;
- ``attention``, ``moments``: softmax and attention, and the exact moments that their constants come from;
- ``residual``: norms and the two ends of a residual branch;
- ``rotary``: rotary position embedding; ``losses``: cross-entropy and squared error;
- ``autograd``: autograd functions that are fast in eager mode and right under every transform;
- ``arguments``: checks of shapes, types and constraints.
"""
