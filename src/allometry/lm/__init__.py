"""The language model that the ladder trains: text, model, training, checkpoints, generation (torch)."""
