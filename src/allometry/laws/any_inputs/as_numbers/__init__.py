"""A forecast over any inputs as plain numbers and steps of arithmetic, so that other programs can evaluate it."""
