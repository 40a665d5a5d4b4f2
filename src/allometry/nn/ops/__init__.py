"""Unit-scaled operations and their exact constants: scale, products, activations, attention, residual, losses."""
