"""What becomes of a trained model: export, and the card that goes with it."""
