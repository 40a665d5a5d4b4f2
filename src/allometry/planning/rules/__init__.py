"""Published rules for batch size and learning rate, with source and range; a baseline carried to another size."""
