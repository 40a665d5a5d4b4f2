"""The data of tasks other than text: samples in memory, read from what a package brings, split, kept, verified."""
