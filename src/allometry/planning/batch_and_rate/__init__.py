"""Batch and learning rate from one's own runs: response surface, sweeps, gradient noise."""
