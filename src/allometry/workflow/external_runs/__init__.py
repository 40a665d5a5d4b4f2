"""Runs that were not trained here, as records of a study."""
