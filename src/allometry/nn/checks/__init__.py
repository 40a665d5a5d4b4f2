"""Is a model at a healthy scale, and does its training depend on the width?

- ``audit``: measure and judge every tensor of a step;
- ``coord_check``: train at several widths and compare the change of each activation;
- ``verdicts``: the limits of a healthy tensor, and the advice for each fault;
- ``objective``: the number that is differentiated, and the default optimiser;
- ``probe``: hooks, statistics, and the state of a model restored;
- ``check_table``: the table that both print.
"""
