"""Arithmetic that a configuration may contain as text, such as a learning-rate factor. Nothing is evaluated by Python itself.

The text is parsed, checked node by node against a whitelist and turned into closures over floats, so the worst that a hostile text can do
is be refused: no attribute, no call of anything unlisted, no integer that grows without bound.
"""

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from utils.errors import UserError, did_you_mean

Values = Mapping[str, float]
Node = Callable[[Values], float]

MOST_CHARACTERS, MOST_NODES, DEEPEST = 2000, 500, 50

CONSTANTS = {"pi": math.pi, "e": math.e}
FUNCTIONS: dict[str, tuple[Callable[..., Any], int | None]] = {  # name -> function and number of arguments (None: one or more)
    "min": (lambda *values: min(values), None),
    "max": (lambda *values: max(values), None),
    "abs": (abs, 1),
    "exp": (math.exp, 1),
    "log": (math.log, 1),
    "sqrt": (math.sqrt, 1),
    "sin": (math.sin, 1),
    "cos": (math.cos, 1),
    "floor": (math.floor, 1),
    "ceil": (math.ceil, 1),
}
FUNCTIONS |= {
    "Min": FUNCTIONS["min"],
    "Max": FUNCTIONS["max"],
    "Abs": FUNCTIONS["abs"],
    "ceiling": FUNCTIONS["ceil"],
}  # as sympy spells them
OPERATORS: dict[type, Callable[[Any, Any], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: lambda a, b: bool(a) and bool(b),  # sympy's "and" and "or"
    ast.BitOr: lambda a, b: bool(a) or bool(b),
}
COMPARISONS: dict[type, Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def compile_expression(text: str, variables: Collection[str], where: str) -> Callable[[Values], float]:
    """A function from the values of `variables` to the number that `text` describes.

    Allowed are numbers, the variables, pi and e, + - * / // % **, comparisons, and/or/not (also & |), `a if c else b`, the functions above
    and sympy's `Piecewise((value, condition), ...)`, the first true condition deciding. Everything is computed in floats.
    Raises `UserError` that begins with `where`: here for what is not allowed, on evaluation for a result that is not a finite number.
    """
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{where}: an expression of {len(text)} characters; at most {MOST_CHARACTERS} are allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "nested too deeply"
        raise UserError(f"{where}: '{_short(text)}' is not an expression ({reason})") from None
    if sum(1 for _ in ast.walk(tree)) > MOST_NODES:
        raise UserError(f"{where}: '{_short(text)}' has more than {MOST_NODES} parts")
    try:
        function = _Compiler(text, frozenset(variables), where).node(tree, 0)
    except RecursionError:  # of `ast.unparse`, on its way to say what is no arithmetic
        raise UserError(f"{where}: '{_short(text)}' is nested too deeply") from None

    def evaluate(values: Values) -> float:
        try:
            result = function(values)
            if isinstance(result, complex) or not math.isfinite(result):
                raise ValueError("the result is not a finite number")
        except (ArithmeticError, ValueError, TypeError) as error:
            at = ", ".join(f"{name} = {value:g}" for name, value in values.items())
            raise UserError(f"{where}: '{_short(text)}' cannot be evaluated at {at} ({error})") from None
        return float(result)

    return evaluate


class _Compiler:
    def __init__(self, text: str, variables: frozenset[str], where: str) -> None:
        self._text, self._variables, self._where = text, variables, where

    def node(self, tree: ast.AST, depth: int) -> Node:
        if depth > DEEPEST:
            raise self._refuse("is nested too deeply")
        match tree:
            case ast.Constant(value=bool() | int() | float() as value):
                return self._constant(value)
            case ast.Name(id=name):
                return self._name(name)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not() as op, operand=operand):
                inner = self.node(operand, depth + 1)
                sign = -1.0 if isinstance(op, ast.USub) else 1.0
                return (lambda v: float(not inner(v))) if isinstance(op, ast.Not) else (lambda v: sign * inner(v))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                function, a, b = OPERATORS[type(op)], self.node(left, depth + 1), self.node(right, depth + 1)
                return lambda v: _real(function(a(v), b(v)))
            case ast.BoolOp(op=op, values=values):
                parts, decide = [self.node(value, depth + 1) for value in values], all if isinstance(op, ast.And) else any
                return lambda v: float(decide(part(v) for part in parts))
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in COMPARISONS for op in ops):
                sides = [self.node(side, depth + 1) for side in (left, *others)]
                tests = [(COMPARISONS[type(op)], a, b) for op, a, b in zip(ops, sides, sides[1:], strict=False)]
                return lambda v: float(all(test(a(v), b(v)) for test, a, b in tests))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._pieces([(body, test), (orelse, ast.Constant(True))], depth)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self._call(name, args, depth)
        raise self._refuse(f"contains '{_short(ast.unparse(tree))}', which is no arithmetic")

    def _constant(self, value: float) -> Node:
        try:
            number = float(value)
        except OverflowError:
            raise self._refuse("contains a number beyond float") from None
        return lambda _: number

    def _name(self, name: str) -> Node:
        if name in CONSTANTS:
            return self._constant(CONSTANTS[name])
        if name not in self._variables:
            raise self._refuse(f"contains the unknown name '{name}'{did_you_mean(name, {*self._variables, *CONSTANTS})}")
        return lambda values: float(values[name])

    def _call(self, name: str, args: list[ast.expr], depth: int) -> Node:
        if name == "Piecewise":
            pairs = [pair.elts for pair in args if isinstance(pair, ast.Tuple) and len(pair.elts) == 2]
            if len(pairs) != len(args) or not args:
                raise self._refuse("has a Piecewise that is not made of (value, condition) pairs")
            return self._pieces([(value, condition) for value, condition in pairs], depth)
        if name not in FUNCTIONS:
            raise self._refuse(f"calls the unknown function '{name}'{did_you_mean(name, [*FUNCTIONS, 'Piecewise'])}")
        function, count = FUNCTIONS[name]
        if not args or (count is not None and len(args) != count):
            raise self._refuse(f"calls {name} with {len(args)} arguments instead of {count or 'one or more'}")
        parts = [self.node(arg, depth + 1) for arg in args]
        return lambda v: float(function(*(part(v) for part in parts)))

    def _pieces(self, pairs: list[tuple[ast.expr, ast.expr]], depth: int) -> Node:
        pieces = [(self.node(value, depth + 1), self.node(condition, depth + 1)) for value, condition in pairs]

        def choose(values: Values) -> float:
            for value, condition in pieces:
                if condition(values):
                    return value(values)
            raise ValueError("no condition of Piecewise is true")

        return choose

    def _refuse(self, problem: str) -> UserError:
        return UserError(f"{self._where}: '{_short(self._text)}' {problem}")


def _real(value: Any) -> float:
    if isinstance(value, complex):  # (-1) ** 0.5
        raise ValueError("a root of a negative number")
    return float(value)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."
