"""Runs and their results: records, studies, claims, saved states, trackers, engines. This room imports no torch."""
