"""Rows that are no finished runs: summaries of the rows above, points along a run, runs that did not end."""
