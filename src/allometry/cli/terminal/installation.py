"""What ``allometry --version`` prints: what is installed, and what each extra would add."""

from __future__ import annotations

from ... import __version__
from ...installed_extras import InstalledExtra, base_versions, installed_extras


def installation() -> str:
    """The versions, then a line for each extra: "yes" with its versions, or what is missing and how to get it."""
    versions = base_versions()
    parts = [f"{name} {value}" for name, value in versions.items()]
    extras = installed_extras()
    width, wide = max(len(each.name) for each in extras), max(len(each.adds) for each in extras)
    lines = [f"  {each.name:<{width}}  {each.adds:<{wide}}  {_state(each)}" for each in extras]
    return "\n".join([f"allometry {__version__}", ", ".join(parts), "extras, and what each adds:", *lines])


def _state(extra: InstalledExtra) -> str:
    if extra.complete:
        return "installed: " + ", ".join(f"{name} {value}" for name, value in extra.has.items())
    return f"pip install 'allometry[{extra.name}]'"
