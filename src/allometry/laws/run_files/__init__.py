"""Finished runs as the usual tools leave them: one reader a tool, and one way from what was logged to N, D and loss."""
