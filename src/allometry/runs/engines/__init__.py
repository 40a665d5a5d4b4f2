"""Where runs are trained: this machine, a Ray cluster, Slurm; one contract for all of them."""
