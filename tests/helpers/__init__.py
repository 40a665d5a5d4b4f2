"""What several tests build upon: small configurations, tables of runs, studies, processes."""
