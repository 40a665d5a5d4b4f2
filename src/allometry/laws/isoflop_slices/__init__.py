"""The best size for each budget, from the minima of the budgets that were run."""
