"""The measured rules, "absmax" and "rms": the function stays the same, the operands of every product come near 1.

- ``measured_factors``: the factors of weights, activations and gradients, and how they are measured;
- ``measured_modules``: ``torch.nn`` modules that divide by the factors, and the way back to the plain ones;
- ``run_batches``: run a model on examples and look at its operands;
- ``measured_rule``: both together, on a whole model;
- ``operand_ranges``: the exponent bits that each operand needs, before and after.
"""
