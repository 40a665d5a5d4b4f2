"""The unit rule: a model's graph is traced on an example and rewritten, operation by operation, to unit scale.

- ``graph``: trace a model; the value of every node on the example;
- ``branches``: residual branches, attention logits and cut edges of a graph;
- ``counterparts``: the unit-scaled module for each module of ``torch.nn``;
- ``rewriting``: a graph while it is rewritten, and its residual additions;
- ``rewrite_modules``, ``rewrite_functions``: the operations that are modules, and those that are functions;
- ``unit_rule``: all steps, in their order.
"""
