"""Plant small mistakes in the bodies and rules of ops, and see what the conformance table notices.

Each mutant is one change in a file of ``src/opsgrad/ops``. It is made in memory and run in a forked
process, on NumPy; no file is edited. What survives is listed with the reason why, which
``tools/mutation_survivors.txt`` keeps by the mutant's description.
"""

import argparse
import ast
import copy
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import multiprocessing
import multiprocessing.connection
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import opsgrad as og
from opsgrad.conformance import TABLE, Row, reference
from opsgrad.conformance.accuracy.exact import Measured, errors, exact, wide
from opsgrad.conformance.checks import (
    bound_of,
    call,
    call_jvp,
    call_vjp,
    check_adjoint,
    check_against_oracle,
    errors_in_ulp,
    sample,
)
from opsgrad.conformance.suite.test_points import check_point
from opsgrad.conformance.target import Target, backend_targets, namespace_target

ROOT = Path(__file__).parent.parent
OPS = ROOT / "src" / "opsgrad" / "ops"
REASONS = ROOT / "tools" / "mutation_survivors.txt"
DTYPES = ("float64", "float32")
TIMEOUT = 90
KILLED, SURVIVED, NO_IMPORT, NO_ANSWER = range(4)


@dataclass(frozen=True)
class Mutant:
    """One change: the file, the rule or function it is in, and the code before and after."""

    path: Path
    where: str
    line: int
    before: str
    after: str
    code: Any
    number: int = 1

    @property
    def description(self) -> str:
        """What the list of reasons knows it by: no line number, which would drift."""
        again = f" (#{self.number})" if self.number > 1 else ""
        return f"{self.path.name}, {self.where}: {self.before} → {self.after}{again}"


# ---- making mutants ----

Changed = Iterator[ast.AST]
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
RENAMED = {
    "max": "min",
    "sum": "mean",
    "exp": "expm1",
    "log1p": "log",
    "log2": "log",
    "log": "log2",
    "floor": "ceil",
    "square": "abs",
    "abs": "positive",
    "ones_like": "zeros_like",
    "zeros_like": "ones_like",
    "isinf": "isfinite",
    "isfinite": "isinf",
    "sqrt": "square",
    "squeeze": "asarray",
}
CONSTANTS = {0.0: 1.0, 1.0: 2.0, 0.5: 1.0, 2.0: 1.0}
CHOOSING = ("where", "where_positive", "zero_product")


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of a file."""
    tree = ast.parse(path.read_text("utf-8"))
    seen: Counter[str] = Counter()
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        for holder, field, place, node in _sites(function):
            for changed in _changes(node):
                mutant = _mutant(path, tree, function, (holder, field, place, node), changed)
                if mutant.before == mutant.after:
                    continue
                seen[mutant.description] += 1
                yield Mutant(**{**vars(mutant), "number": seen[mutant.description]})


Site = tuple[ast.AST, str, int | None, ast.AST]


def _sites(function: ast.FunctionDef) -> Iterator[Site]:
    """Yield each node of a function's code, with what holds it; not its docstring."""
    for statement in function.body[bool(ast.get_docstring(function)) :]:
        for holder in ast.walk(statement):
            for field, value in ast.iter_fields(holder):
                if isinstance(value, ast.AST):
                    yield holder, field, None, value
                elif isinstance(value, list):
                    for place, entry in enumerate(value):
                        if isinstance(entry, ast.AST):
                            yield holder, field, place, entry


def _mutant(
    path: Path, tree: ast.Module, function: ast.FunctionDef, site: Site, changed: ast.AST
) -> Mutant:
    holder, field, place, node = site
    before = ast.unparse(node)
    _put(holder, field, place, changed)
    code = compile(ast.fix_missing_locations(copy.deepcopy(tree)), str(path), "exec")
    _put(holder, field, place, node)
    where = function.name if function.name != "_" else ast.unparse(function.decorator_list[0])
    after = ast.unparse(changed)
    return Mutant(path, where.split("(")[0], getattr(node, "lineno", 0), before, after, code)


def _put(holder: ast.AST, field: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(holder, field, node)
    else:
        getattr(holder, field)[place] = node


def _changes(node: ast.AST) -> Changed:
    """Yield what a node may be replaced with."""
    changes: dict[type[ast.AST], Callable[[Any], Changed]] = {
        ast.BinOp: _of_operation,
        ast.BoolOp: _of_boolean,
        ast.Compare: _of_comparison,
        ast.Constant: _of_constant,
        ast.UnaryOp: _of_sign,
        ast.Call: _of_call,
        ast.Tuple: _of_tuple,
        ast.IfExp: _of_choice,
    }
    return changes.get(type(node), lambda _: iter(()))(node)


def _of_operation(node: ast.BinOp) -> Changed:
    if type(node.op) in SWAPPED:
        yield _with(node, op=SWAPPED[type(node.op)]())
        yield node.left
        if isinstance(node.op, ast.Add | ast.Mult | ast.BitAnd | ast.BitOr):
            yield node.right


def _of_boolean(node: ast.BoolOp) -> Changed:
    yield _with(node, op=SWAPPED[type(node.op)]())


def _of_comparison(node: ast.Compare) -> Changed:
    if type(node.ops[0]) in SWAPPED:
        yield _with(node, ops=[SWAPPED[type(node.ops[0])](), *node.ops[1:]])


def _of_constant(node: ast.Constant) -> Changed:
    if type(node.value) in (int, float):
        changed = CONSTANTS.get(node.value, node.value * 2)
        yield ast.Constant(type(node.value)(changed))


def _of_sign(node: ast.UnaryOp) -> Changed:
    if isinstance(node.op, ast.USub | ast.Invert):
        yield node.operand


def _of_call(node: ast.Call) -> Changed:
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
    if isinstance(function, ast.Attribute) and name in RENAMED:
        yield _with(node, func=_with(function, attr=RENAMED[name]))
    if name in CHOOSING and len(node.args) >= 3:
        *most, one, other = node.args
        yield _with(node, args=[*most, other, one])
    for keyword in node.keywords:
        if keyword.arg in ("axis", "keepdims"):
            yield _with(node, keywords=[k for k in node.keywords if k is not keyword])


def _of_tuple(node: ast.Tuple) -> Changed:
    if len(node.elts) > 1 and isinstance(node.ctx, ast.Load):
        yield _with(node, elts=[node.elts[1], node.elts[0], *node.elts[2:]])


def _of_choice(node: ast.IfExp) -> Changed:
    yield _with(node, body=node.orelse, orelse=node.body)


def _with(node: ast.AST, **fields: Any) -> Any:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


# ---- the checks ----


def check_everything(first: Sequence[str]) -> None:
    """Run every check on every op, those called `first` before the others."""
    (numpy_target,) = backend_targets("numpy")
    names = [*first, *(name for name in TABLE if name not in first)]
    for check in (check_points, check_short, check_shapes, check_jacobian, check_hard):
        for name in names:
            check(TABLE[name], numpy_target)
    check_dominated(numpy_target)
    check_nearly_constant_at_ties(numpy_target)
    check_wide_rows(numpy_target)
    check_subnormal(numpy_target)
    check_norm_beyond_ratios(numpy_target)
    check_refusals()
    check_unknown_lengths()
    check_lazy_labels()
    check_strictly(first)


def check_points(row: Row, target: Target) -> None:
    """Check the hand-checked points."""
    for point, dtype in itertools.product((*row.kinks, *row.specials), DTYPES):
        if dtype == "float64" or not point.float64_only:
            check_point(row, point, target, dtype)


def check_short(row: Row, target: Target) -> None:
    """Check short rows, in every parameter set and data type, against the oracle."""
    for params, dtype in itertools.product(row.variants, DTYPES):
        rng = np.random.default_rng(5)
        arrays = sample(row, rng, (3, 5), dtype=dtype)
        check_against_oracle(row, target, arrays, rng, **params)
        check_adjoint(row.op, target, arrays, rng, **params)


def check_shapes(row: Row, target: Target) -> None:
    """Check other shapes and axes, reductions and kept axes."""
    rng = np.random.default_rng(6)
    shapes: list[tuple[tuple[int, ...], dict[str, Any]]] = [((4,), {}), ((2, 1, 3), {})]
    if row.has_axis:
        shapes += [((4, 3), {"axis": 0}), ((2, 3, 2), {"axis": 1}), ((2, 3), {"axis": -2})]
    if row.has_keepdims:
        shapes += [((3, 2), {"axis": axis, "keepdims": True}) for axis in (0, 1)]
    if row.has_reduction:
        shapes += [((3, 4), {"reduction": reduction}) for reduction in ("mean", "sum")]
    for shape, params in shapes:
        arrays = sample(row, rng, shape, params.get("axis", -1))
        check_against_oracle(row, target, arrays, rng, **row.variants[-1], **params)


def check_jacobian(row: Row, target: Target) -> None:
    """Hold the columns of the dense Jacobians to the JVPs along the axes, in a batch of rows."""
    for params, spread in itertools.product(row.variants, (1.0, 30.0)):
        arrays = sample(row, np.random.default_rng(7), (2, 3, 4))
        arrays[0] = arrays[0] * spread
        for argnum, array in enumerate(arrays):
            if array.dtype.kind == "f" and array.shape == arrays[0].shape:
                _check_columns(row, target, arrays, argnum, params)
    if row.name == "relumax":
        x, b = sample(row, np.random.default_rng(7), (2, 3, 4))[0], 1e300
        _check_columns(row, target, [x * b], 0, {"b": b})
        _check_columns(row, target, [x / b], 0, {"b": 1 / b})
        _check_columns(row, target, [np.array([[0.0, -0.5, -1.0]])], 0, {"b": 1.0})  # a kink


def _check_columns(
    row: Row, target: Target, arrays: Sequence[Any], argnum: int, params: Any
) -> None:
    array = arrays[argnum]
    jacobian = og.jacobian(row.op, *arrays, argnum=argnum, **params).dense()
    for place in range(array.shape[-1]):
        tangents = [None if a.dtype.kind in "iu" else np.zeros_like(a) for a in arrays]
        tangents[argnum] = np.where(np.arange(array.shape[-1]) == place, np.ones_like(array), 0.0)
        column = call_jvp(row.op, target, arrays, tangents, params)
        found = jacobian[..., place]
        if found.ndim > column.ndim:  # an elementwise op counts its last axis as the row
            found = np.diagonal(jacobian, axis1=-2, axis2=-1) * tangents[argnum]
        assert found.shape == column.shape
        np.testing.assert_allclose(found, column, rtol=1e-14, atol=1e-300)


def check_dominated(target: Target) -> None:
    """Check the gradients of rows with a dominant entry, where the terms cancel to 10⁻¹⁸."""
    x, at_top = np.array([[0.0, 40.0]] * 2), np.array([[0.0, 2.0], [0.0, 3.0]])
    right = np.exp(-40.0) * np.array([[-2.0, 2.0], [-3.0, 3.0]])
    mutated = importlib.import_module("opsgrad")
    (found,) = call_vjp(mutated.log_softmax, target, [x], at_top, {})
    np.testing.assert_allclose(found, right, rtol=1e-14)
    found = call_vjp(mutated.softmax_cross_entropy, target, [x, at_top], np.ones(2), {})[0]
    np.testing.assert_allclose(found, -right, rtol=1e-14)


def check_nearly_constant_at_ties(target: Target) -> None:
    """Check relumax's derivatives where three maxima tie and the direction is nearly constant."""
    row = TABLE["relumax"]
    for dtype, b in itertools.product(DTYPES, (0.5, 3.0)):
        eps = float(np.finfo(dtype).eps)
        x = np.array([[1.0, 1.0, 0.75, 1.0, -1.0], [0.7, 0.7, 0.7, 0.3, 0.1]], dtype=dtype)
        g = (1 + 4 * eps * np.array([[0, 1, 2, 4, 3], [3, 0, 1, 2, 0]])).astype(dtype)
        right = exact(row, [x], {"b": b})
        (pulled,) = call_vjp(row.op, target, [x], g, {"b": b})
        pushed = call_jvp(row.op, target, [x], [g], {"b": b})
        for got, one in ((pulled, right.vjp(wide(g))[0]), (pushed, right.jvp([wide(g)]))):
            assert one is not None
            floored = Measured(one.number, one.scale + 4 * eps * right.value.number)
            assert errors(got, floored, of_scale=True).max() <= 2 * row.gradient_ulp


def check_wide_rows(target: Target) -> None:
    """Check the gradient of norms in float32 where the entries are up to 10⁵⁰ apart."""
    x = np.array([[1e30, -3e-19, 2e10], [-9e16, 1.5e-23, 4e16]], dtype=np.float32)
    for params in ({"p": 0.5}, {"p": 1.5}, {"p": 0.75}):
        rng = np.random.default_rng(14)
        check_against_oracle(TABLE["lp_norm"], target, [x], rng, only="vjp", **params)


def check_subnormal(target: Target) -> None:
    """Check that a subnormal entry alone has the slope 1, where a power of it overflows."""
    x, params = np.array([1e-44], dtype=np.float32), {"p": 0.05}
    (found,) = call_vjp(TABLE["lp_norm"].op, target, [x], np.float32(1.0), params)
    np.testing.assert_allclose(found, [1.0], rtol=1e-4)
    lp_norm = TABLE["lp_norm"]
    for size, p in ((1e-44, 10.0), (1e-40, 40.0)):
        x, params = np.array([size, 0.0], dtype=np.float32), {"p": p}
        assert call(lp_norm.op, target, [x], params) == x[0]
        (found,) = call_vjp(lp_norm.op, target, [x], np.float32(1.0), params)
        np.testing.assert_allclose(found, [1.0, 0.0], rtol=1e-6)


def check_norm_beyond_ratios(target: Target) -> None:
    """Check the gradient where the norm is too many times an entry for their ratio."""
    x = np.full(100, 2.0**99, dtype=np.float32)
    x[0] = 2.0**-24
    (found,) = call_vjp(TABLE["lp_norm"].op, target, [x], np.float32(1.0), {"p": 0.5})
    np.testing.assert_allclose(found, 99.0 * np.sqrt(2.0**99 / x.astype(float)), rtol=1e-6)


OFFSETS: tuple[Callable[[np.random.Generator, Any], Any], ...] = (
    lambda rng, x: 100.0 * rng.standard_normal(x.shape) + 1e4,
    lambda rng, x: np.where(np.arange(x.shape[-1]) == 1, x + 60.0, x),
    lambda rng, x: np.round(x),
)


def check_hard(row: Row, target: Target) -> None:
    """Check long rows, offset, dominated and tied rows, and nearly constant cotangents."""
    if row.arguments[0] in ("x", "logits") and row.has_axis and not row.name.endswith("norm"):
        for params, dtype, offset in itertools.product(row.variants, DTYPES, OFFSETS):
            rng = np.random.default_rng(8)
            x, *others = sample(row, rng, (4, 6), dtype=dtype)
            arrays = [offset(rng, x).astype(dtype), *others]
            check_against_oracle(row, target, arrays, rng, only="value", **params)
            if row.name != "relumax":  # a tie of its maxima is a kink
                check_against_oracle(row, target, arrays, rng, only="vjp jvp", **params)
                check_nearly_constant(row, target, arrays, params)
            check_adjoint(row.op, target, arrays, rng, **params)
    if row.name in ("softmax", "relumax"):
        for params, dtype in itertools.product(row.variants, DTYPES):
            rng = np.random.default_rng(9)
            arrays = sample(row, rng, (3, 6), dtype=dtype)
            check_nearly_constant(row, target, arrays, params)
            check_nearly_constant(row, target, arrays, params, forward=True)
    if row.has_axis:
        rng = np.random.default_rng(10)
        arrays = sample(row, rng, (1, 300), dtype="float32")
        check_against_oracle(row, target, arrays, rng, only="value", **row.variants[0])
    for params in ({"p": 0.55}, {"p": 0.6}, {"p": 0.7}, {"p": 1.7}) * (row.name == "lp_norm"):
        arrays = sample(row, np.random.default_rng(13), (2, 1000), dtype="float32")
        check_against_oracle(row, target, arrays, rng, only="value", **params)
    if row.name.endswith("norm"):
        check_magnitudes(row, target)
    if row.name == "relumax":
        check_extreme_margins(row, target)


def check_extreme_margins(row: Row, target: Target) -> None:
    """Check relumax with a b near the ends of the floating-point range, and rows to match."""
    for dtype, b in (
        ("float32", 1e30),
        ("float32", 1e-30),
        ("float64", 1e300),
        ("float64", 1e-300),
    ):
        rng = np.random.default_rng(12)
        x = sample(row, rng, (2, 4))[0] * b
        check_against_oracle(row, target, [x.astype(dtype)], rng, b=b)


def check_magnitudes(row: Row, target: Target) -> None:
    """Check norms of huge and tiny entries, and orders beyond those of the table."""
    orders: Iterable[dict[str, float]] = row.variants
    if row.name == "lp_norm":
        orders = [
            *row.variants,
            *({"p": p} for p in (0.6, 0.3, 50.0, 150.0, 500.0, 1500.0, 2000.0)),
        ]
    for params, dtype in itertools.product(orders, DTYPES):
        rng = np.random.default_rng(11)
        (x,) = sample(row, rng, (3, 4), dtype=dtype)
        factors = (1e18, 1e-17) if row.name == "squared_l2_norm" else (1e36, 1e-36)
        wanted = "value vjp jvp" if 0.5 <= params.get("p", 1.0) <= 30.0 else "value"
        if params.get("p", 1.0) > 96.0:
            factors = (5e37, 1e-36) if dtype == "float32" else (2e307, 1e-300)
        for factor in (*factors, 3.0):
            arrays = [x * x.dtype.type(factor)]
            check_against_oracle(row, target, arrays, rng, only=wanted, **params)


def check_nearly_constant(
    row: Row, target: Target, arrays: Sequence[Any], params: Any, *, forward: bool = False
) -> None:
    """Hold a derivative along a direction that is constant but for its last digits."""
    like = arrays[0] if forward else reference.value(row, arrays, **params)
    dtype = arrays[0].dtype
    eps = float(np.finfo(dtype).eps)
    g = (np.arange(like.size).reshape(like.shape) % 3 * 4 * eps + 1).astype(dtype)
    if forward:
        exact = reference.jvp(row, arrays, [g], **params)
        scale = reference.jvp_scale(row, arrays, [g], **params)
        got = call_jvp(row.op, target, arrays, [g], params)
    else:
        exact = reference.vjp(row, arrays, g, **params)[0]
        scale = reference.vjp_scale(row, arrays, g, **params)[0]
        got = call_vjp(row.op, target, arrays, g, params)[0]
    scale = scale + 4 * eps * (1.0 if row.name in ("softmax", "relumax") else 0.0)
    allowed = 2 * bound_of(row, "vjp", target, str(dtype), params)
    assert errors_in_ulp(got, exact, np.asarray(scale)) <= allowed


def _refuses(function: Callable[..., Any], *arrays: Any) -> None:
    assert _refusal(function, *arrays)


def _refusal(function: Callable[..., Any], *arrays: Any) -> str:
    """Return the message of the error that is raised, nothing if there is none."""
    try:
        function(*arrays)
    except og.OpsgradError as error:
        return str(error)
    return ""


def check_refusals() -> None:
    """Check that shapes which do not fit are refused, and those that fit are not."""
    mutated = importlib.import_module("opsgrad")
    x, w, b = np.ones((2, 3)), np.ones((3, 4)), np.ones(4)
    _refuses(mutated.dense, np.ones(()), w, b)
    _refuses(mutated.dense, x, np.ones(3), b)
    _refuses(mutated.dense, x, np.ones((4, 3)), np.ones(3))
    _refuses(mutated.dense, x, w, np.ones(3))
    _refuses(mutated.dense, x, w, np.ones((1, 4)))
    _refuses(mutated.dense, x, np.ones((3, 4, 1)), b)
    mutated.dense(x, w)
    mutated.dense(np.ones(3), w, b)
    for shape in ((2,), (2, 2), (1, 2), (3, 2)):
        _refuses(mutated.prelu, x, np.ones(shape))
    for shape in ((), (1,), (3,), (1, 3), (2, 1), (2, 3)):
        mutated.prelu(x, np.ones(shape))
    mutated.prelu(np.ones((1, 3)), np.ones((2, 3)))
    transposed = _refusal(mutated.dense, x, np.ones((4, 3)), np.ones(4))
    assert "in = 3" in transposed
    assert "transpose" in transposed
    assert "transpose" not in _refusal(mutated.dense, x, np.ones((4, 5)), np.ones(5))
    assert "in = 3" in _refusal(mutated.dense, np.ones((5, 2, 3)), np.ones((4, 3)), np.ones(4))
    assert "transpose" in _refusal(mutated.dense, np.ones((5, 2, 3)), np.ones((4, 3)), np.ones(4))
    assert "(4,)" in _refusal(mutated.dense, x, w, np.ones(3))
    _refuses(mutated.nll_loss, x, np.array([0, 3]))


def check_unknown_lengths() -> None:
    """Check that a length that does not fit is refused beside one that nobody knows yet."""
    if importlib.util.find_spec("dask") is None:
        return
    lazy: Any = importlib.import_module("dask.array")
    mutated = importlib.import_module("opsgrad")
    w = lazy.ones((4, 5))[:, lazy.arange(5) > 2]  # of shape (4, NaN)
    _refuses(mutated.dense, lazy.ones((2, 3)), w)
    mutated.dense(lazy.ones((2, 4)), w)


def check_strictly(first: Sequence[str]) -> None:
    """Check the points where only what the standard's oldest version says is there."""
    if importlib.util.find_spec("array_api_strict") is None:
        return
    strict: Any = importlib.import_module("array_api_strict")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that some functions are missing in it
        flags = strict.ArrayAPIStrictFlags(api_version="2023.12")
    with flags:
        for name in first or TABLE:
            check_points(TABLE[name], namespace_target("array_api_strict"))


def check_lazy_labels() -> None:
    """Check that a label that names no class gives NaN where labels cannot be looked at."""
    if importlib.util.find_spec("dask") is None:
        return
    lazy = backend_targets("dask")[0]
    x, labels = np.array([[0.0, 1.0, 3.0]] * 5), np.array([0, -1, 3, 2, 4])
    for name in (n for n, row in TABLE.items() if "labels" in row.arguments):
        op = getattr(importlib.import_module("opsgrad"), name)
        bad = np.isnan(lazy.run(op, x, labels)).tolist()
        assert bad == [False, True, True, False, True]
        gradient = call_vjp(op, lazy, [x, labels], np.ones(5), {})[0]
        assert np.isnan(gradient).all(axis=-1).tolist() == bad
        assert np.isnan(gradient).any(axis=-1).tolist() == bad
        along = call_jvp(op, lazy, [x, labels], [x, None], {})
        assert np.isnan(along).tolist() == bad


# ---- running ----


def remember(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the oracle's results: they are the same for all mutants, and the slowest part."""
    known: dict[Any, Any] = {}

    @functools.wraps(function)
    def kept(row: Row, *arrays: Any, **params: Any) -> Any:
        key = row.name, _frozen(arrays), tuple(sorted(params.items()))
        if key not in known:
            known[key] = function(row, *arrays, **params)
        return known[key]

    return kept


def _frozen(entry: Any) -> Any:
    if isinstance(entry, list | tuple):
        return tuple(map(_frozen, entry))
    if isinstance(entry, np.ndarray):
        return entry.shape, str(entry.dtype), entry.tobytes()
    return entry


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a mutant's code."""

    def __init__(self, name: str, code: Any) -> None:
        self.name, self.code = name, code

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.name:
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, vars(module))  # noqa: S102


def _verdict(mutant: Mutant) -> int:
    """Run the checks on a mutant, in this process."""
    name = f"opsgrad.ops.{mutant.path.stem}"
    for module in [m for m in sys.modules if m == "opsgrad" or m.startswith("opsgrad.ops")]:
        del sys.modules[module]
    sys.meta_path.insert(0, _Loader(name, mutant.code))
    try:
        mutated = importlib.import_module("opsgrad")
    except Exception:
        return NO_IMPORT
    module = sys.modules[name]
    first = [op for op in TABLE if getattr(mutated, op) in vars(module).values()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            check_everything(first)
    except Exception:
        return KILLED
    return SURVIVED


def _run(mutant: Mutant, waiting: Any) -> None:
    signal.alarm(TIMEOUT)  # ends the process
    waiting.send(_verdict(mutant))


def run(mutants: Sequence[Mutant], processes: int) -> Iterator[tuple[Mutant, int]]:
    """Yield each mutant with its verdict, `processes` at a time."""
    context = multiprocessing.get_context("fork")
    running: list[tuple[Mutant, Any, Any]] = []
    remaining = iter(mutants)
    while True:
        for mutant in itertools.islice(remaining, processes - len(running)):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(mutant, theirs), daemon=True)
            process.start()
            theirs.close()
            running.append((mutant, process, ours))
        if not running:
            return
        multiprocessing.connection.wait([pipe for _, _, pipe in running])
        for entry in [entry for entry in running if entry[2].poll()]:
            running.remove(entry)
            yield entry[0], _answer(entry[2])
            entry[1].join()


def _check_the_harness() -> None:
    """Run the checks on a mutant that is none: it must survive."""
    path = OPS / "softmax.py"
    code = compile(path.read_text("utf-8"), str(path), "exec")
    same = Mutant(path, "nothing", 0, "the same", "the same", code)
    ((_, verdict),) = run([same], 1)
    if verdict != SURVIVED:
        raise SystemExit("the checks fail in a forked process, without a mutant")


def _answer(pipe: Any) -> int:
    try:
        return int(pipe.recv())
    except EOFError:  # it crashed or ran out of time
        return NO_ANSWER


# ---- reporting ----


def reasons() -> dict[str, str]:
    """Return why each known survivor does, by its description."""
    if not REASONS.exists():
        return {}
    lines = [line for line in REASONS.read_text("utf-8").splitlines() if "\t" in line]
    return dict(line.split("\t", 1) for line in lines)


def page(verdicts: Sequence[tuple[Mutant, int]]) -> str:
    """Return the Markdown page."""
    counts = Counter(verdict for _, verdict in verdicts)
    known = reasons()
    survivors = sorted(
        (m for m, v in verdicts if v == SURVIVED), key=lambda m: (m.path.name, m.line, m.after)
    )
    score = _score(len(verdicts), counts[SURVIVED])
    same = sum(known.get(m.description, "").startswith("equivalent") for m in survivors)
    lines = [
        "# Mutation testing\n",
        "Written by `python tools/mutation.py` (`make mutation`): small mistakes planted one at a",
        "time in the bodies and rules of the ops, and the conformance table's checks run on each,",
        "on NumPy in float32 and float64.\n",
        (
            f"**{score:.1f} % of {len(verdicts)} mutants are killed** (goal: 95 %): "
            f"{counts[NO_IMPORT]} cannot be imported, {counts[NO_ANSWER]} run out of time. "
            f"{counts[SURVIVED]} survive, {same} of which change nothing that could be noticed: "
            f"without these {_score(len(verdicts) - same, counts[SURVIVED] - same):.1f} %.\n"
        ),
        f"The survivors by kind: {_kinds(survivors, known)}.\n",
    ]
    if survivors:
        lines += ["| where | in | original → mutated | why it survives |", "|---|---|---|---|"]
        for one in survivors:
            change = f"`{one.before}` → `{one.after}`".replace("|", "\\|").replace("\n", " ")
            why = known.get(one.description, "**not looked at yet**")
            lines.append(f"| {one.path.name}:{one.line} | {one.where} | {change} | {why} |")
    return "\n".join(lines) + "\n"


KINDS = {
    "equivalent": "equivalent",
    "as good": "another choice within the goals",
    "slower": "slower",
    "other libraries": "noticed on other libraries than NumPy",
}
"""The word before the colon with which a reason begins, and what it stands for."""


def _kinds(survivors: Sequence[Mutant], known: dict[str, str]) -> str:
    kinds = Counter(known.get(m.description, "").split(":")[0] for m in survivors)
    named = [f"{number} {KINDS.get(kind, 'not looked at yet')}" for kind, number in kinds.items()]
    return ", ".join(sorted(named)) or "none"


def _score(mutants: int, survivors: int) -> float:
    return 100.0 * (1 - survivors / max(1, mutants))


def _with_progress(batch: Iterable[Any], total: int) -> Iterator[Any]:
    if importlib.util.find_spec("tqdm") is not None:
        yield from importlib.import_module("tqdm").tqdm(batch, total=total, unit="mutant")
        return
    for number, entry in enumerate(batch, 1):
        if number % 50 == 0:
            print(f"{number}/{total}", file=sys.stderr)
        yield entry


def main() -> int:
    """Make and run the mutants; 1 where more than 5 % survive that are not equivalent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", nargs="*", help="names of files in src/opsgrad/ops")
    parser.add_argument("--every", type=int, default=1, help="take only every n-th mutant")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "mutation.md")
    options = parser.parse_args()
    paths = [p for p in sorted(OPS.glob("*.py")) if not options.files or p.name in options.files]
    mutants = [mutant for path in paths for mutant in mutants_of(path)][:: options.every]
    for name in ("value", "vjp", "jvp", "value_scale", "vjp_scale", "jvp_scale"):
        setattr(reference, name, remember(getattr(reference, name)))
    if importlib.util.find_spec("dask") is not None:
        importlib.import_module("dask").config.set(scheduler="synchronous")  # threads cannot fork
    start = time.perf_counter()
    check_everything([])  # without a mutant nothing fails; the oracle's results are kept
    print(f"{len(mutants)} mutants; the checks pass ({time.perf_counter() - start:.0f} s)")
    _check_the_harness()
    verdicts = list(_with_progress(run(mutants, options.processes), len(mutants)))
    text = page(verdicts)
    options.output.write_text(text, encoding="utf-8")
    known = reasons()
    survivors = [mutant for mutant, verdict in verdicts if verdict == SURVIVED]
    noticeable = [m for m in survivors if not known.get(m.description, "").startswith("equiv")]
    for mutant in survivors:
        print(f"line {mutant.line}: {mutant.description}")
    made = {mutant.description for mutant in mutants}
    for one in sorted((known.keys() & made) - {mutant.description for mutant in survivors}):
        print(f"killed, though a reason stands in {REASONS.name}: {one}")
    print(next(line for line in text.splitlines() if line.startswith("**")))
    return int(len(noticeable) > 0.05 * len(verdicts))


if __name__ == "__main__":
    sys.exit(main())
