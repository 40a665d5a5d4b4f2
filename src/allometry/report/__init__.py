"""What a study found, for people: tables for the terminal, and one HTML file that opens offline.

- ``findings``: everything a study holds, read once;
- ``curves``: what each picture shows, as arrays;
- ``plots``: those arrays drawn, as SVG text;
- ``tables``: rows for the terminal and the page alike;
- ``page``: the file.
"""

from .page import write_report
from .tables import fit_table, outcome_lines, plan_table, runs_table

__all__ = ["fit_table", "outcome_lines", "plan_table", "runs_table", "write_report"]
