"""Anybody's table of runs: read, match columns, clean, derive, check what it can support."""
