"""``audit``: a model of the user's, or a run of a study, measured tensor by tensor."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from ..quantities import parse_number
from .terminal.command import EndsWith, free_name, the_same_with
from .terminal.options import Json

NOT_OK = 1
WINDOWS = 8  # of held-out text, for a run
WIDTHS = "64,128,256,512"

EXAMPLES = (
    "allometry audit model.py:make",
    "allometry audit model.py:make --steps 20 --html scales.html",
    "allometry audit model.py:make --coord-check --widths 32,64,128",
    "allometry audit quickstart",
)


def audit(
    target: Annotated[
        str,
        typer.Argument(
            help="module:function or FILE.py:function: returns (model, batch) or (model, batch, loss); or STUDY/RUN."
        ),
    ],
    steps: Annotated[
        int | None, typer.Option(min=0, help="Train so many steps on the batch and measure again; widths: 4.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of those steps; 0.1 for our layers, else 0.001.")
    ] = None,
    coord_check: Annotated[
        bool,
        typer.Option("--coord-check", help="Does training depend on the width? By function(width) → (model, batch)."),
    ] = False,
    widths: Annotated[str | None, typer.Option(help=f"For --coord-check; {WIDTHS} by default.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page of all scales as well, which opens offline.")] = None,
    json: Json = False,
) -> list[str] | None:
    """Measure the scale of every activation, weight and gradient of a model. Exit status 1 if one is not healthy."""
    from ..extras import require
    from .terminal.output import answer, answer_json

    require("torch")  # before the user's own file fails to import it
    if widths is not None and not coord_check:
        raise UserError("--widths: only with --coord-check")
    if html is not None and coord_check:
        raise UserError("--html: draws the scales of one model, so it goes without --coord-check")
    place = target if ":" in target and not Path(target).exists() else None
    if coord_check:
        if place is None:
            raise UserError(f"{target}: --coord-check needs module:function, where function(width) makes a model")
        result = _check_widths(place, _function(place), _widths(widths), steps, lr)
    else:
        from ..nn.checks.audit import audit as audit_model

        model, batch, loss = _model_of_user(place) if place else _model_of_run(Path(target))
        result = _guarded(target, lambda: audit_model(model, batch, loss, steps or 0, lr=lr))
    if html is not None:
        _write_page(html, result)
    answer_json(result.to_dict()) if json else answer(result)
    if not result.ok:
        raise EndsWith(NOT_OK, the_same_with())  # once what is said above is mended
    return _next(steps, widths, html, coord_check=coord_check)


def _next(steps: int | None, widths: str | None, html: Path | None, *, coord_check: bool) -> list[str]:
    """The same check, with more that it can find."""
    if steps is None:
        return the_same_with("--steps", "20")
    if coord_check:
        return the_same_with("--widths", f"{WIDTHS},1024") if widths is None else []
    return the_same_with("--html", free_name("scales.html")) if html is None else []


def _write_page(path: Path, result: Any) -> None:
    from ..files import replace_file
    from ..nn.checks.audit_page import audit_page

    if path.exists() and not path.is_file():
        raise UserError(f"--html {path}: exists and is not a file; give another name")
    replace_file(path, audit_page(result).encode())


def _check_widths(target: str, function: Callable, widths: tuple[int, ...], steps: int | None, lr: float | None):
    from ..nn.checks.coord_check import coord_check

    return _guarded(target, lambda: coord_check(function, widths, steps=4 if steps is None else steps, lr=lr))


def _widths(text: str | None) -> tuple[int, ...]:
    given = (text or WIDTHS).split(",")
    return tuple(int(parse_number(part.strip(), "--widths")) for part in given)


def _guarded(target: str, check: Callable[[], Any]) -> Any:
    """The result of ``check``; an exception of the user's own code, or of torch at its shapes, becomes one line."""
    try:
        return check()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = _user_frames(error)
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if frames:
            line = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
            raise UserError(f"{target}: raised {message} ({line})") from error
        if isinstance(error, ValueError | TypeError):  # a refusal of ours, whose message says what to do
            raise UserError(f"{target}: {error}") from error
        if isinstance(error, SyntaxError | ImportError | RuntimeError | IndexError | OSError | SystemExit):
            raise UserError(f"{target}: {message}") from error  # for example torch, at the user's shapes or indices
        raise


def _user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where an exception passed through code that is neither ours nor a library's."""
    others = (str(Path(__file__).parents[1]), sys.base_prefix, "<frozen", "site-packages", "dist-packages")
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if not any(part in frame.filename for part in others)]


def _model_of_user(target: str) -> tuple[Any, Any, Any]:
    """What the user's function returns: model, batch and perhaps a loss."""
    returned = _guarded(target, _function(target))
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        kind = f"{len(returned)} values" if isinstance(returned, tuple) else type(returned).__name__
        raise UserError(f"{target}: returned {kind}; return (model, batch) or (model, batch, loss)")
    model, batch, loss = (*returned, None)[:3]
    return model, batch, loss


def _function(target: str) -> Callable:
    """The function that ``module:function`` or ``file.py:function`` names, looked for from the current folder."""
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise UserError(f"{target}: write module:function, as models:tiny, or a study or run of one")
    module = _guarded(target, lambda: _module(where))
    function = getattr(module, name, None)
    if not callable(function):
        what = "there is none" if function is None else f"it is {type(function).__name__}"
        raise UserError(f"{target}: {name} must be a function of {where}; {what}")
    return function


def _module(where: str) -> Any:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if not where.endswith(".py"):
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name and (where == error.name or where.startswith(f"{error.name}.")):
                raise UserError(f"{where}: no such module, looked for from {folder}") from None
            raise
    path = Path(where)
    if not path.is_file():
        raise UserError(f"{where}: no such file")
    sys.path.insert(0, str(path.resolve().parent))  # as for a script, so that it finds its neighbours
    name = f"audited {path.stem}"  # not the name of any module that exists
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{where}: cannot be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _model_of_run(path: Path) -> tuple[Any, Any, None]:
    """The model of a run or of a weights file, and held-out text of its study; without that text, random tokens."""
    study, record = _find(path)
    import torch

    from ..data.corpus import load_corpus
    from ..lm.generate import load_model
    from ..tasks.windows import held_out_windows
    from .terminal.output import note

    model = load_model(study, record)
    note(f"run {record.id}")
    shape = model.config
    try:
        batch = held_out_windows(load_corpus(study.corpus_path).held_out, shape.context, WINDOWS)
    except UserError as error:
        note(f"{error}; random tokens instead")
        seeded = torch.Generator().manual_seed(0)
        tokens = torch.randint(shape.vocab_size, (WINDOWS, shape.context + 1), generator=seeded)
        batch = tokens[:, :-1], tokens[:, 1:]
    return model, batch, None


def _find(path: Path) -> tuple[Any, Any]:
    """The study and the record of a run that a path names."""
    from ..runs.study import find_run

    if path.suffix == ".safetensors":  # STUDY/runs/RUN/model.safetensors
        path = path.parent.parent.parent / path.parent.name
    try:
        return find_run(path)
    except UserError as error:
        if "neither a study" not in str(error):
            raise
        raise UserError(f"{path}: neither a study nor a run of one, nor module:function or FILE.py:function") from None
