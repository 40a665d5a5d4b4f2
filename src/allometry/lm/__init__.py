"""The built-in language model: model, batches, training, checkpoints, generation (torch)."""
