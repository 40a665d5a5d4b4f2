"""Make an existing model unit-scaled.

- ``scale_model``: the one function to call, for both kinds of rules;
- ``plain_linear_maps``: ``torch.nn``'s attention and transformer layers as plain linear maps, before either rule;
- ``unit/``: the rule "unit", by constants known beforehand;
- ``measured/``: the rules "absmax" and "rms", by factors measured on examples.
"""
