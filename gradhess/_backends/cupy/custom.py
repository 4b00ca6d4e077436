"""Custom losses on the GPU: the user's scalar functions of ``(eta, y)``, translated to C and compiled into a kernel.

What is translated: assignments, ``if``, ``return``, conditional expressions, arithmetic, comparisons, ``and``, ``or``,
``not``, the functions of ``math`` and of NumPy in ``FUNCTIONS``, numbers from the module or the enclosing function, and
other functions that are written so. All numbers are float64. A function that is not (its source is not to be had, or
it has loops) is called once with whole CuPy arrays instead, as NumPy's functions allow; what fails at both is an
InputError that says why.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import math
import numbers
import textwrap
from functools import lru_cache
from typing import Any, Final

import numpy as np

from gradhess._backends.cupy.engine import DeviceArray
from gradhess._backends.cupy.launch import cupy, flat
from gradhess._backends.protocol import FLOAT64, LossSpec, ScalarFunction
from gradhess.errors import InputError

# fmt: off
_SAME: Final = [
    "exp", "log", "log1p", "expm1", "sqrt", "tanh", "sinh", "cosh", "sin", "cos", "tan", "atan",
    "asin", "acos", "erf", "erfc", "lgamma", "floor", "ceil", "fabs", "copysign", "atan2", "pow",
    "hypot", "log2", "log10", "exp2", "fmax", "fmin", "cbrt", "rint", "asinh",
]
# fmt: on
FUNCTIONS: Final = {
    **{name: name for name in _SAME},
    **{"abs": "fabs", "absolute": "fabs", "max": "fmax", "min": "fmin", "maximum": "fmax", "minimum": "fmin"},
    **{"arctan": "atan", "arctan2": "atan2", "arcsin": "asin", "arccos": "acos", "arcsinh": "asinh"},
    **{"power": "pow", "float": "", "float64": ""},
}
"""Of ``math``, NumPy and the builtins, and what they are called in C."""
_BINARY: Final = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_COMPARE: Final = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}

_KERNEL: Final = """
extern "C" __global__ void custom(const double* eta, const double* y, const double* c, i64 n, double* slope,
                                  double* value) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const double weight = c ? c[i] : 1.0;
    slope[i] = weight * SLOPE(eta[i], y[i]);
    value[i] = weight * VALUE(eta[i], y[i]);
}
"""


class Untranslatable(Exception):
    """Why a function did not become C."""


def evaluate(
    loss: LossSpec,
    second: bool,
    eta: DeviceArray,
    y: DeviceArray,
    c: DeviceArray | None,
    slope: DeviceArray,
    value: DeviceArray,
) -> None:
    """Write ``c l'`` (or ``c l''``) and ``c l`` (0 where no value was given)."""
    assert loss.functions is not None
    value_of, first_of, second_of = loss.functions
    slope_of = second_of if second else first_of
    assert slope_of is not None
    n = int(eta.shape[0])
    try:
        code, names = translated(slope_of, value_of)
    except Untranslatable as reason:
        for name, function, out in (("derivative", slope_of, slope), ("value", value_of, value)):
            _vectorised(name, function, eta, y, c, out, reason)
        return
    kernel = _KERNEL.replace("SLOPE", names[0]).replace("VALUE", names[1])
    flat("custom", FLOAT64, n, eta, y, c, n, slope, value, extra=f"\n{code}{kernel}")


def _vectorised(
    name: str,
    function: ScalarFunction | None,
    eta: DeviceArray,
    y: DeviceArray,
    c: DeviceArray | None,
    out: DeviceArray,
    reason: Exception,
) -> None:
    flat_out = out.reshape(-1)
    if function is None:
        flat_out.fill(0)
        return
    plain: Any = getattr(function, "py_func", function)
    try:
        result = plain(eta.reshape(-1), y)
        flat_out[...] = result if c is None else cupy().multiply(result, c)
    except Exception as error:  # a function of the user's may raise anything
        raise InputError(
            f"the {name} of the custom loss cannot run on a GPU: it does not translate to C ({reason}), and called "
            f"with CuPy arrays it raises {type(error).__name__}: {error}"
        ) from error


@lru_cache(maxsize=64)
def translated(slope_of: ScalarFunction, value_of: ScalarFunction | None) -> tuple[str, tuple[str, str]]:
    """The functions in C, and the names of the slope and of the value (0 where none was given); Untranslatable."""
    unit = _Unit()
    slope = unit.add(slope_of)
    if value_of is None:
        unit.code.append("static __device__ double none(double, double) { return 0.0; }")
    value = "none" if value_of is None else unit.add(value_of)
    return "\n".join(unit.code), (slope, value)


class _Unit:
    """The C functions of one kernel."""

    def __init__(self) -> None:
        self.code: list[str] = []
        self.names: dict[Any, str] = {}

    def add(self, function: Any) -> str:
        """The C name of a Python function, which is translated if it was not before."""
        plain = getattr(function, "py_func", function)
        if plain in self.names:
            return self.names[plain]
        if not inspect.isfunction(plain):
            raise Untranslatable(f"{plain!r} is no Python function")
        name = self.names[plain] = f"user_{len(self.names)}"
        arguments, body = _definition(plain)
        translator = _Translator(self, plain, arguments)
        lines = translator.block(body)
        parameters = ", ".join(f"double v_{argument}" for argument in arguments)
        local = sorted(translator.local - set(arguments))
        declared = f"    double {', '.join(f'v_{one} = 0.0' for one in local)};\n" if local else ""
        text = "\n".join(lines)
        self.code.append(
            f'static __device__ double {name}({parameters}) {{\n{declared}{text}\n    return nan("");\n}}'
        )
        return name


def _definition(function: Any) -> tuple[list[str], list[ast.stmt]]:
    """Arguments and body, from the source."""
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        raise Untranslatable(f"its source cannot be read: {error}") from error
    tree = _parsed(text)
    if function.__name__ != "<lambda>":
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == function.__name__:
                return _names(node.args), node.body
        raise Untranslatable("its definition is not found in its source")
    # Several lambdas may share a line: the one with the same names and numbers.
    found = [
        node for node in ast.walk(tree) if isinstance(node, ast.Lambda) and _same(node, function.__code__)
    ]
    if len({ast.dump(node) for node in found}) != 1:
        raise Untranslatable(
            f"its line holds {len(found)} lambdas that may be it; define the function with def"
        )
    return _names(found[0].args), [ast.Return(found[0].body)]


def _same(node: ast.Lambda, code: Any) -> bool:
    """Whether a lambda in a source may be what was compiled to ``code``: the same words and numbers."""
    made = compile(ast.Expression(node), "<lambda>", "eval").co_consts[0]
    words = [set(one.co_names) | set(one.co_freevars) for one in (made, code)]
    return made.co_varnames == code.co_varnames and made.co_consts == code.co_consts and words[0] == words[1]


def _parsed(text: str) -> ast.AST:
    """A lambda inside a call that spans lines is no statement by itself; its own lines may be."""
    for start in range(len(text)):
        if start and not text.startswith("lambda", start):
            continue
        for stop in range(len(text), start, -1) if start else [len(text)]:
            try:
                return ast.parse(text[start:stop])
            except SyntaxError:
                continue
    raise Untranslatable("its source does not parse by itself; define the function with def")


def _names(arguments: ast.arguments) -> list[str]:
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs:
        raise Untranslatable("it has arguments that are no plain (eta, y)")
    return [one.arg for one in (*arguments.posonlyargs, *arguments.args)]


class _Translator:
    def __init__(self, unit: _Unit, function: Any, arguments: list[str]) -> None:
        self.unit = unit
        self.local = set(arguments)
        scope = inspect.getclosurevars(function)
        self.known: dict[str, Any] = {**vars(builtins), **scope.globals, **scope.nonlocals}

    def block(self, body: list[ast.stmt]) -> list[str]:
        return [line for statement in body for line in self.statement(statement)]

    def statement(self, node: ast.stmt) -> list[str]:
        if isinstance(node, ast.Return) and node.value is not None:
            return [f"    return {self.value(node.value)};"]
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            return [self.assign(node.targets[0].id, self.value(node.value))]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            return [self.assign(node.target.id, self.value(node.value))]
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            both = ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value)
            return [self.assign(node.target.id, self.value(both))]
        if isinstance(node, ast.If):
            lines = [f"    if ({self.condition(node.test)}) {{", *self.block(node.body), "    }"]
            return [*lines, "    else {", *self.block(node.orelse), "    }"] if node.orelse else lines
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return []  # a docstring
        if isinstance(node, ast.Pass):
            return []
        raise Untranslatable(f"line {node.lineno} of it is a {type(node).__name__}")

    def assign(self, name: str, value: str) -> str:
        self.local.add(name)
        return f"    v_{name} = {value};"

    def condition(self, node: ast.expr) -> str:
        if isinstance(node, ast.Compare):
            values = [self.value(part) for part in (node.left, *node.comparators)]
            pairs = zip(values, node.ops, values[1:], strict=False)
            if any(type(op) not in _COMPARE for op in node.ops):
                raise Untranslatable("a comparison that is no <, <=, >, >=, == or !=")
            return "(" + " && ".join(f"{a} {_COMPARE[type(op)]} {b}" for a, op, b in pairs) + ")"
        if isinstance(node, ast.BoolOp):
            sign = " && " if isinstance(node.op, ast.And) else " || "
            return "(" + sign.join(self.condition(part) for part in node.values) + ")"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return f"(!{self.condition(node.operand)})"
        return f"({self.value(node)} != 0.0)"

    def value(self, node: ast.expr) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
            return _number(node.value)
        if isinstance(node, ast.Name):
            return f"v_{node.id}" if node.id in self.local else _number(self.object(node))
        if isinstance(node, ast.Attribute):
            return _number(self.object(node))
        if isinstance(node, (ast.Compare, ast.BoolOp)):
            return f"({self.condition(node)} ? 1.0 : 0.0)"
        if isinstance(node, ast.IfExp):
            return f"({self.condition(node.test)} ? {self.value(node.body)} : {self.value(node.orelse)})"
        if isinstance(node, ast.UnaryOp):
            if isinstance(node.op, ast.Not):
                return f"({self.condition(node)} ? 1.0 : 0.0)"
            if isinstance(node.op, (ast.USub, ast.UAdd)):
                return f"({'-' if isinstance(node.op, ast.USub) else '+'}{self.value(node.operand)})"
        if isinstance(node, ast.BinOp):
            return self.binary(node)
        if isinstance(node, ast.Call) and not node.keywords:
            return self.call(node)
        raise Untranslatable(f"it holds {ast.unparse(node)!r}")

    def binary(self, node: ast.BinOp) -> str:
        left, right = self.value(node.left), self.value(node.right)
        if type(node.op) in _BINARY:
            return f"({left} {_BINARY[type(node.op)]} {right})"
        if isinstance(node.op, ast.Pow):
            return f"({left} * {left})" if right == _number(2) else f"pow({left}, {right})"
        if isinstance(node.op, ast.FloorDiv):
            return f"floor({left} / {right})"
        raise Untranslatable(f"it holds the operator {type(node.op).__name__}")

    def call(self, node: ast.Call) -> str:
        called = self.object(node.func)
        arguments = ", ".join(self.value(argument) for argument in node.args)
        name = getattr(called, "__name__", "")
        home = (getattr(called, "__module__", None) or "numpy").partition(".")[
            0
        ]  # ufuncs of NumPy have no module
        if name == "logaddexp" and len(node.args) == 2:
            a, b = (self.value(argument) for argument in node.args)
            return f"(fmax({a}, {b}) + log1p(exp(-fabs({a} - {b}))))"
        if name == "sign" and len(node.args) == 1:
            return f"(({arguments} > 0.0) - ({arguments} < 0.0) + 0.0 * {arguments})"
        if name == "where" and len(node.args) == 3:
            yes, no = self.value(node.args[1]), self.value(node.args[2])
            return f"({self.condition(node.args[0])} ? {yes} : {no})"
        if home in ("math", "numpy", "builtins") and name in FUNCTIONS:
            return f"{FUNCTIONS[name]}({arguments})"
        if inspect.isfunction(getattr(called, "py_func", called)):
            return f"{self.unit.add(called)}({arguments})"
        raise Untranslatable(f"it calls {ast.unparse(node.func)}")

    def object(self, node: ast.expr) -> Any:
        """What a name, or an attribute of a module, means where the function was defined."""
        if isinstance(node, ast.Name) and node.id in self.known:
            return self.known[node.id]
        if isinstance(node, ast.Attribute):
            return getattr(self.object(node.value), node.attr)
        raise Untranslatable(f"{ast.unparse(node)!r} is not known where it was defined")


def _number(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "1.0" if value else "0.0"
    if not isinstance(value, numbers.Real):
        raise Untranslatable(f"it uses {value!r}, which is no number")
    number = float(value)
    if math.isnan(number):
        return 'nan("")'
    return f"({'-' if number < 0 else ''}(1e308 * 1e308))" if math.isinf(number) else f"({number.hex()})"
