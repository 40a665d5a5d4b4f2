"""Arithmetic that a user writes in a configuration: ``12 * width**2``, ``max(1, width // 16)``; never run as code."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..errors import UserError

_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "round": round,
    "int": int,
    "ceil": math.ceil,
    "floor": math.floor,
    "sqrt": math.sqrt,
    "log": math.log,
}
_LARGEST = 1e30  # beyond it a power is a mistake, and may take for ever
_LONGEST = 500  # characters


def evaluate(text: str, names: Mapping[str, float], where: str) -> float:
    """The value of an expression of numbers, ``names``, + - * / // % **, and min, max, round, ceil, floor, sqrt, log.

    Raises:
        UserError: it is no such expression, names something else, or has no finite value; ``where`` says which.
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"longer than {_LONGEST} characters")
        value = _value(ast.parse(text, mode="eval").body, names)
        if not math.isfinite(value):
            raise ValueError("the value is not finite")
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise UserError(f"{where}: {text!r} cannot be calculated: {error}") from None
    return value


def is_arithmetic(text: str, names: Collection[str]) -> bool:
    """Whether a text can be read as an expression and names one of ``names``; else it is a text."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(tree))


def _value(node: ast.expr, names: Mapping[str, float]) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.Name):
        if node.id not in names:
            raise ValueError(f"{node.id} is not known; known: {', '.join(names)}")
        return names[node.id]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base, exponent = _value(node.left, names), _value(node.right, names)
        if base and abs(exponent) * abs(math.log(abs(base))) > math.log(_LARGEST):
            raise ValueError("a power is out of range")
        return base**exponent
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, names), _value(node.right, names))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.operand, names))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in _FUNCTIONS:
            raise ValueError(f"{node.func.id}() is not known; known: {', '.join(_FUNCTIONS)}")
        return _FUNCTIONS[node.func.id](*(_value(argument, names) for argument in node.args))
    raise ValueError("only numbers, names and arithmetic")
