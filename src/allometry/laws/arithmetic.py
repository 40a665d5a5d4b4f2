"""Arithmetic over columns as a user writes it: ``6*N*D``. Parsed and walked here; nothing is ever executed."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

import numpy as np

from ..errors import UserError

OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
MOST_CHARACTERS = 500


def names_in(expression: str) -> list[str]:
    """The columns that an expression reads, in the order in which they come first.

    Raises:
        UserError: not an expression of columns, numbers and + - * / **.
    """
    return list(dict.fromkeys(node.id for node in ast.walk(_parsed(expression)) if isinstance(node, ast.Name)))


def evaluate(expression: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """The value of an expression for every row.

    Raises:
        UserError: not such an expression, or a name that is no column.
    """
    with np.errstate(all="ignore"):
        return np.asarray(_value(_parsed(expression).body, columns, expression), dtype=float)


def _parsed(expression: str) -> ast.Expression:
    try:
        if len(expression) > MOST_CHARACTERS:
            raise SyntaxError
        return ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _refusal(expression[:60]) from None


def _value(node: ast.AST, columns: Mapping[str, np.ndarray], expression: str) -> float | np.ndarray:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.Name):
        if node.id not in columns:
            raise UserError(f"{expression!r}: no column {node.id!r}; found: {', '.join(columns)}")
        return columns[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = (_value(side, columns, expression) for side in (node.left, node.right))
        try:
            return OPERATORS[type(node.op)](left, right)
        except (ArithmeticError, ValueError):
            raise UserError(f"{expression!r} cannot be worked out: {ast.unparse(node)} is no finite number") from None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, columns, expression)
        return -value if isinstance(node.op, ast.USub) else value
    raise _refusal(expression)


def _refusal(expression: str) -> UserError:
    return UserError(f"{expression!r} is no arithmetic of columns: write it like 6*N*D, with + - * / ** and brackets")
