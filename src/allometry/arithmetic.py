"""Arithmetic that a user writes, ``12 * width**2``, ``6*N*D``, ``max(1, width // 16)``: walked, never run as code."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from functools import reduce
from typing import Any

from .errors import UserError

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
    value = _calculated(text, names, where)
    try:
        finite = math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        finite = False
    if not finite:
        raise UserError(f"{where}: {text!r} cannot be calculated: the value is not finite")
    return value


def evaluate_rows(text: str, columns: Mapping[str, Any], where: str) -> Any:
    """The same of columns, NumPy arrays of one length: an array, or a number where no column is named.

    Raises:
        UserError: it is no such expression, or names something that is no column; ``where`` says which.
    """
    import numpy as np

    functions: dict[str, Callable[..., Any]] = {
        "min": lambda *values: reduce(np.minimum, values),
        "max": lambda *values: reduce(np.maximum, values),
        # Not NumPy's own, whose second argument is an array to write into.
        "round": lambda value, digits=0: np.round(value, digits),
        "int": lambda value: np.trunc(value),
        "ceil": lambda value: np.ceil(value),
        "floor": lambda value: np.floor(value),
        "sqrt": lambda value: np.sqrt(value),
        "log": lambda value, base=math.e: np.log(value) / np.log(base),
    }
    return _calculated(text, columns, where, functions)


def names_in(text: str, where: str) -> list[str]:
    """What an expression names, functions aside, in the order in which it comes first.

    Raises:
        UserError: it is no expression; ``where`` says which.
    """
    tree = _parsed(text, where)
    functions = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node not in functions]
    return list(dict.fromkeys(node.id for node in sorted(named, key=lambda node: node.col_offset)))


def is_arithmetic(text: str, names: Collection[str]) -> bool:
    """Whether a text can be read as an expression and names one of ``names``; else it is a text."""
    try:
        tree = _parsed(text, "")
    except UserError:
        return False
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(tree))


def _parsed(text: str, where: str) -> ast.expr:
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"longer than {_LONGEST} characters")
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{where}: {text[:60]!r} is no arithmetic, such as 6*N*D: {error}") from None


def _calculated(
    text: str, names: Mapping[str, Any], where: str, functions: Mapping[str, Callable[..., Any]] = _FUNCTIONS
) -> Any:
    tree = _parsed(text, where)
    try:
        return _value(tree, names, functions)
    except (ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise UserError(f"{where}: {text!r} cannot be calculated: {error}") from None


def _value(node: ast.expr, names: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.Name):
        if node.id not in names:
            raise ValueError(f"{node.id} is not known; known: {', '.join(names)}")
        return names[node.id]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base, exponent = _value(node.left, names, functions), _value(node.right, names, functions)
        if _are_numbers(base, exponent) and base and abs(exponent) * abs(math.log(abs(base))) > math.log(_LARGEST):
            raise ValueError("a power is out of range")
        if _are_numbers(base, exponent) and base < 0 and exponent != int(exponent):
            raise ValueError("a root of a negative number is no real one")
        return base**exponent
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, names, functions), _value(node.right, names, functions))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.operand, names, functions))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in functions:
            raise ValueError(f"{node.func.id}() is not known; known: {', '.join(functions)}")
        return functions[node.func.id](*(_value(argument, names, functions) for argument in node.args))
    raise ValueError("only numbers, names and arithmetic are read")


def _are_numbers(*values: Any) -> bool:
    """Whether they are numbers, and not columns, whose powers cost no time."""
    return all(isinstance(value, int | float) for value in values)
