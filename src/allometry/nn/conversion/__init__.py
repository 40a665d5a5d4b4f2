"""Make an existing model unit-scaled: trace and rewrite (unit), or measure (absmax, rms)."""
