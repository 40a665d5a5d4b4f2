"""What `allometry quickstart` and the study commands do, as functions: prepare, climb, fit, plan, train, outcome."""
