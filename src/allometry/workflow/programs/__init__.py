"""The main job on a program of the user's: how its study plans, and each step from cost to outcome."""
