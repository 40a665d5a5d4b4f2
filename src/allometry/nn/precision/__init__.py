"""Number formats to the bit, and linear maps in FP8."""
