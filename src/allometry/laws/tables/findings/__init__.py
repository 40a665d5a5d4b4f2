"""What a careful person would notice about a table of runs: odd rows, repeats, and what its design cannot tell."""
