"""Which runs a study trains: shapes, recipe, sweep, speed of the machine, design, and the climb (no torch)."""
