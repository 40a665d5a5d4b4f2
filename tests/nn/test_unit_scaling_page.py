"""The page on unit scaling: every block of Python runs, one after the other, as a reader would run them."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "unit-scaling.md"


def test_every_block_of_the_page_runs():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    assert len(blocks) >= 8
    names = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["plain_again"] is names["measured"]
    assert type(names["fresh"][0]).__module__.startswith("allometry.nn.")
