"""Modules under the names of torch.nn: with parameters, without, and the transformer."""
