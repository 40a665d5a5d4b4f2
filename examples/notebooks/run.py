"""Run the notebooks of this folder without Jupyter, each in an empty folder, and keep what their cells show.

python examples/notebooks/run.py              # all of them; the outputs are written into the files
python examples/notebooks/run.py 0_smallest_case.ipynb

The notebooks are the source: edit them in any editor of notebooks, then run this. A cell's output is what it prints and
the value of its last expression, as Jupyter would show it. The button for Colab and the cell that installs the package
are written from ``REPOSITORY``.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

# The address of the repository once it is published, such as "https://github.com/OWNER/NAME". While it is empty, the
# notebooks have no button for Colab and install nothing: there is no address that they could name.
REPOSITORY = ""
TRAINS = ("1_text_to_plan", "3_my_model")  # the notebooks that need the extra "train"; the others need "nn"
MOST_OUTPUT = 60_000  # characters of a cell's output that are kept in the file


def run_notebook(path: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run all cells of a notebook in order, in ``folder``: the notebook with its outputs, and the variables."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    variables: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    os.chdir(folder)
    try:
        number = 0
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                number += 1
                where = f"{path.name}, cell {number}"
                cell["execution_count"], cell["outputs"] = number, run_cell("".join(cell["source"]), variables, where)
                for output in cell["outputs"]:
                    if output["output_type"] == "execute_result":
                        output["execution_count"] = number
    finally:
        os.chdir(before)
    return notebook, variables


def run_cell(source: str, variables: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Run the statements of a cell; what it printed, and its last expression's value."""
    tree = ast.parse(source, where)
    last = tree.body.pop().value if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), variables)
        if last is not None:
            value = eval(compile(ast.Expression(last), where, "eval"), variables)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(text)})
    if value is not None:
        outputs.append({"data": _shown(value), "metadata": {}, "output_type": "execute_result"})
    return outputs


def addressed(notebook: dict[str, Any], name: str, repository: str = REPOSITORY) -> dict[str, Any]:
    """A notebook whose button and first code cell name the repository, or nothing while there is no address."""
    first, install = notebook["cells"][:2]
    title, *rest = [line for line in first["source"] if "colab.research.google.com" not in line]
    if rest[:2] == ["\n", "\n"]:  # the blank line below a button
        rest = rest[1:]
    site = "https://colab.research.google.com"
    if repository:
        place = repository.removeprefix("https://").replace("github.com/", "github/")
        page = f"{site}/{place}/blob/main/examples/notebooks/{name}.ipynb"
        rest = ["\n", f"[![Open in Colab]({site}/assets/colab-badge.svg)]({page})\n", *rest]
    first["source"] = [title, *rest]
    install["source"] = _lines(_install("train" if name in TRAINS else "nn", repository))
    return notebook


def _install(extra: str, repository: str) -> str:
    """The cell that brings the package where it is missing, or says what to do."""
    lines = [
        "# Where allometry is installed this does nothing.",
        "import importlib.util",
        "",
        'if importlib.util.find_spec("allometry") is None:',
    ]
    if repository:
        lines += [
            "    import subprocess",
            "    import sys",
            "",
            f'    source = "allometry[{extra}] @ git+{repository}"',
            '    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)',
        ]
    else:
        advice = f"install allometry: pip install '.[{extra}]' in a copy of its repository"
        lines.append(f'    raise ModuleNotFoundError("{advice}")')
    return "\n".join(lines)


def _shown(value: Any) -> dict[str, list[str]]:
    """A value as Jupyter shows it: HTML where it has one that is not too long, and text."""
    shown = {"text/plain": _lines(repr(value))}
    html = value._repr_html_() if hasattr(value, "_repr_html_") else None
    return shown if html is None or len(html) > MOST_OUTPUT else {"text/html": _lines(html)} | shown


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def as_text(notebook: dict[str, Any]) -> str:
    """The text of a notebook's file."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main(names: list[str]) -> None:
    """Run notebooks and write their outputs, the button and the cell that installs into them."""
    here = Path(__file__).parent
    for path in [here / name for name in names] or sorted(here.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            notebook, _ = run_notebook(path, Path(folder))
        path.write_text(as_text(addressed(notebook, path.stem)), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
