"""Who trains a run: the contract, the catalog by name, the built-in trainer, and the process that engines start."""
