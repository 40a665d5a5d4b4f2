"""Who trains a run: the contract, the catalog, the built-in trainer, that of programs, the process of an engine."""
