"""What a plan costs: budget, devices, memory, transformer shapes."""
