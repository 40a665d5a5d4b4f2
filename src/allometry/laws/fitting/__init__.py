"""One law fitted: objective, optimum, intervals by refits."""
