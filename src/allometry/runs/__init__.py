"""What is run and what came of it: records, studies, recipes, ladders, and the engine that trains them (no torch)."""
