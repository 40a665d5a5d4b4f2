"""The loss along a run and along its learning-rate schedule."""
