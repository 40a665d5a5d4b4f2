"""What a model learns and is scored on: the contract of a task, the catalog by name, and the built-in task, text."""
