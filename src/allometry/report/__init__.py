"""The results of a study for people: tables, sentences, and one HTML page that opens offline.

- ``study_contents``: all files of a study, read once;
- ``pictures``: the data of each picture as arrays, and how they are drawn as SVG;
- ``cells``, ``tables``, ``law_tables``: tables, the same for the page and for the terminal;
- ``sentences``: the verdict, what is missing, captions; the outcome as lines;
- ``html``: templates and scripts to one page; ``question``: what a page is told so that one can ask the law in it;
- ``page``: the report of a study; ``law_page``: the page of any table's law;
  ``inputs_page``: of laws of any inputs, with ``law_parts``, ``inputs_tables``; ``isoflop_page``: of the minima of
  budgets;
  ``comparison_page``: studies side by side.
"""

from .comparison_page import write_comparison
from .inputs_page import write_inputs_page
from .isoflop_page import write_isoflop_page
from .law_page import check_page, write_law_page
from .page import write_report
from .sentences import outcome_lines

__all__ = [
    "check_page",
    "outcome_lines",
    "write_comparison",
    "write_inputs_page",
    "write_isoflop_page",
    "write_law_page",
    "write_report",
]
