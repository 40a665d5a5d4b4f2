"""What the commands share: their common options, and what they print."""
