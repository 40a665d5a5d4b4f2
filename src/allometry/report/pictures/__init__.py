"""Pictures of a study and of a law: first their data are computed as arrays, then they are drawn."""
