"""The size and tokens of lowest predicted loss for a budget, and how flat that optimum is."""
