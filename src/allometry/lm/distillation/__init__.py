"""Distillation: a teacher that a study holds, and the task of learning text from its probabilities."""
