"""What determines a run, frozen and hashed into its identity: model, data, training, schedule, study (no torch)."""
