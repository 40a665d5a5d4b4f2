"""Is a model at a healthy scale, and does its training depend on the width? Audit and coordinate check."""
