"""What is run and what came of it: records, studies, claims, saved states, trackers, engines (no torch)."""
