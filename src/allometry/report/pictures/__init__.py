"""Pictures of a study and of a law: the data computed first, then drawn."""
