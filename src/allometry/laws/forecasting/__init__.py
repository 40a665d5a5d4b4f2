"""Several laws that predict together: weights by a backtest, calibrated intervals."""
