"""Files of loss curves: which column is what, what a row is, and the points in order."""
