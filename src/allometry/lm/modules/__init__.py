"""The family of the user's own PyTorch modules: their code, their counts, their training."""
