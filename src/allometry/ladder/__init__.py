"""Which runs a study trains, and their training: shapes, recipe, sweep, speed of the machine, design (no torch)."""
