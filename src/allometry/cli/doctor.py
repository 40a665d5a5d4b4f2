"""``doctor``: what this machine offers to a study."""

from __future__ import annotations

from .terminal.options import Json

EXAMPLES = (
    "allometry doctor",
    "allometry doctor --json",
)


def doctor(json: Json = False) -> list[str]:
    """What this machine offers a study: compiler, processor, GPU, threads, memory, disk, network."""
    from ..quantities import plural
    from ..runs.machine_checks import machine_checks
    from .terminal.output import answer, answer_json

    checks = machine_checks()
    if json:
        answer_json([check.to_json() for check in checks])
        return []
    width = max(len(check.name) for check in checks)
    for check in checks:
        answer(f"{'ok' if check.ok else '! '}  {check.name:<{width}}  {check.value}")
        if check.advice:
            answer(f"    {'':<{width}}  {check.advice}")
    hints = sum(not check.ok for check in checks)
    answer("nothing stands in the way" if not hints else f"{plural(hints, 'hint')}: marked with !")
    return ["allometry", "quickstart", "--dry-run"]
