"""Train the built-in model: one trunk, or several as one batched model, by a worker process."""
