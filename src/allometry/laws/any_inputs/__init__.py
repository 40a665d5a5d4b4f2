"""Laws over any inputs: forms from a small grammar, weighed by a backtest, with what they leave unexplained."""
