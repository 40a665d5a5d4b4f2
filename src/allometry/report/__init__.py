"""The results of a study for people: tables for the terminal, and one HTML page that opens offline.

- ``study_contents``: all files of a study, read once;
- ``pictures``: the data of each picture as arrays, and how they are drawn as SVG;
- ``cells``, ``tables``, ``law_tables``: tables, the same for the page and for the terminal;
- ``terminal``: these tables by Rich;
- ``sentences``: the verdict, what is missing, captions; the outcome as lines;
- ``page``: the HTML file.
"""

from .page import write_report
from .sentences import outcome_lines

__all__ = ["outcome_lines", "write_report"]
