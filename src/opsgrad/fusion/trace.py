"""An array API namespace over symbols: running a body on it records what the body computes.

Arrays are taken as a table of rows and columns, whatever their shape: the axis that an op runs
along is the columns, all the others together are the rows. So one trace serves every shape, and an
array is a whole table, or has one number for each row or each column, or is one number.
"""

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from opsgrad.fusion.graph import OVER_ROWS, Graph

FLOATING = (np.dtype(np.float32), np.dtype(np.float64))
INTEGER = np.dtype(np.int64)
BOOLEAN = np.dtype(np.bool_)


class UntraceableError(Exception):
    """A body does something that no row program can; the message says what, as a clause."""


class Extent(int):
    """A length that is not known: neither 0 nor 1, equal to itself alone, and no number."""

    def __new__(cls, name: str) -> Self:
        extent = super().__new__(cls, 2)
        extent.name = name
        return extent

    name: str

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return hash(self.name)

    def _refuse(self, *others: Any) -> Any:
        raise UntraceableError(f"it computes with the number of {self.name}")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __pow__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __float__ = __neg__ = __bool__ = __index__ = _refuse

    def __repr__(self) -> str:
        return self.name


ROWS, COLUMNS = Extent("rows"), Extent("columns")
Shape = tuple[int, ...]


class Symbol:
    """An array in a trace."""

    __array_ufunc__ = None
    device = "cpu"

    def __init__(self, graph: Graph, number: int, shape: Shape) -> None:
        self.graph = graph
        self.number = number
        self.shape = shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.graph.nodes[self.number].dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __neg__(self) -> "Symbol":
        return elementwise("negative", self)

    def __invert__(self) -> "Symbol":
        return elementwise("logical_not", self)

    def __bool__(self) -> bool:
        raise UntraceableError("it decides by the values of an array")

    __float__ = __int__ = __index__ = __bool__

    def __getitem__(self, key: Any) -> "Symbol":
        keys = key if isinstance(key, tuple) else (key,)
        shape = list(self.shape)
        if Ellipsis in keys:
            place = keys.index(Ellipsis)
            taken = sum(one is not None for one in keys) - 1
            keys = keys[:place] + (slice(None),) * (self.ndim - taken) + keys[place + 1 :]
        for place, one in enumerate(keys):
            if one is None:
                shape.insert(place, 1)
            elif one != slice(None):
                raise UntraceableError("it picks out a part of an array")
        return self._reshaped(tuple(shape))

    def _reshaped(self, shape: Shape) -> "Symbol":
        return Symbol(self.graph, self.number, shape)

    __hash__ = None  # type: ignore[assignment]


def _operator(name: str, *, swapped: bool = False) -> Callable[[Symbol, Any], Any]:
    def method(self: Symbol, other: Any) -> Any:
        if not isinstance(other, Symbol | int | float | np.generic):
            return NotImplemented
        one, two = (other, self) if swapped else (self, other)
        return elementwise(name, one, two)

    return method


for _name, _kind in {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "pow": "pow",
    "and": "logical_and",
    "or": "logical_or",
}.items():
    setattr(Symbol, f"__{_name}__", _operator(_kind))
    setattr(Symbol, f"__r{_name}__", _operator(_kind, swapped=True))
_COMPARISONS = {
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
}
for _name, _kind in _COMPARISONS.items():
    setattr(Symbol, f"__{_name}__", _operator(_kind))

TESTS = {"isnan", "isinf", "isfinite", "logical_and", "logical_or", "logical_not"} | set(
    _COMPARISONS.values()
)
"""What gives True or False."""


def elementwise(kind: str, *operands: Any) -> Symbol:
    """Record an elementwise function of symbols and Python numbers."""
    if kind == "pow":
        return _power(*operands)
    return _record(kind, *operands)


def _power(base: Any, exponent: Any) -> Symbol:
    """Record a power: of 2, which is exact for whole exponents, a small one, or any other.

    A cube is wrong by 1 unit in the last place at most, as any power is, and takes a tenth of the
    time.
    """
    if _constant(base) == 2.0:
        return _record("exp2", exponent)
    if _constant(exponent) not in (2.0, 3.0):
        return _record("pow", base, exponent)
    square = _record("multiply", base, base)
    return square if _constant(exponent) == 2.0 else _record("multiply", square, base)


def _constant(operand: Any) -> float | None:
    """Return the number that an operand is everywhere, if it is one."""
    if isinstance(operand, Symbol):
        node = operand.graph.nodes[operand.number]
        return node.detail if node.kind == "constant" else None
    return float(operand)


def _record(kind: str, *operands: Any) -> Symbol:
    symbols = [one for one in operands if isinstance(one, Symbol)]
    graph = symbols[0].graph
    values = symbols[1:] if kind == "where" else symbols
    dtype = _common(kind, [one.dtype for one in values])
    numbers = [
        one.number if isinstance(one, Symbol) else _number(graph, one, dtype) for one in operands
    ]
    result = BOOLEAN if kind in TESTS else dtype
    shape = _broadcast([one.shape for one in symbols])
    return Symbol(graph, graph.apply(kind, tuple(numbers), result), shape)


def _common(kind: str, dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    if len(set(dtypes)) != 1:
        raise UntraceableError(f"its {kind} mixes the data types {', '.join(map(str, dtypes))}")
    return dtypes[0]


def _number(graph: Graph, value: Any, dtype: np.dtype[Any]) -> int:
    if isinstance(value, Extent):
        if value is not COLUMNS:
            raise UntraceableError(f"it computes with the number of {value.name}")
        return graph.length()
    return graph.constant(dtype.type(value).item(), dtype)


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    out: list[int] = []
    for place in range(-max(map(len, shapes)), 0):
        lengths = [shape[place] for shape in shapes if len(shape) >= -place]
        longer = [length for length in lengths if length != 1]
        if any(length != longer[0] for length in longer):
            raise UntraceableError("it broadcasts an array in a way of its own")
        out.append(longer[0] if longer else 1)
    return tuple(out)


class Tracer:
    """The namespace: what of the array API a row program can hold."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    float32, float64 = FLOATING
    int64, bool = INTEGER, BOOLEAN
    nan, inf, pi, e = math.nan, math.inf, math.pi, math.e

    def __getattr__(self, name: str) -> Any:
        raise UntraceableError(f"it calls {name}")

    def finfo(self, dtype: np.dtype[Any]) -> Any:
        return np.finfo(dtype)

    def where(self, condition: Symbol, one: Any, other: Any) -> Symbol:
        return elementwise("where", condition, one, other)

    def square(self, x: Symbol) -> Symbol:
        return elementwise("multiply", x, x)

    def clip(self, x: Symbol, low: Any = None, high: Any = None) -> Symbol:
        if low is not None:
            x = elementwise("maximum", x, low)
        return x if high is None else elementwise("minimum", x, high)

    def astype(self, x: Symbol, dtype: np.dtype[Any], /, *, copy: Any = True) -> Symbol:
        if x.dtype == dtype:
            return x
        if dtype not in FLOATING or x.dtype in FLOATING:
            raise UntraceableError(f"it casts {x.dtype} to {dtype}")
        return Symbol(x.graph, x.graph.apply("astype", (x.number,), dtype), x.shape)

    def full_like(self, x: Symbol, value: Any, /, *, dtype: Any = None) -> Symbol:
        dtype = x.dtype if dtype is None else dtype
        return Symbol(x.graph, _number(x.graph, value, dtype), x.shape)

    def zeros_like(self, x: Symbol, /, *, dtype: Any = None) -> Symbol:
        return self.full_like(x, 0, dtype=dtype)

    def ones_like(self, x: Symbol, /, *, dtype: Any = None) -> Symbol:
        return self.full_like(x, 1, dtype=dtype)

    # -- shapes ----------------------------------------------------------------------------------

    def broadcast_to(self, x: Symbol, shape: Shape) -> Symbol:
        return x._reshaped(_broadcast([x.shape, tuple(shape)]))

    def squeeze(self, x: Symbol, /, axis: int) -> Symbol:
        place = axis % x.ndim
        if x.shape[place] != 1:
            raise UntraceableError("it drops an axis that is longer than 1")
        return x._reshaped(x.shape[:place] + x.shape[place + 1 :])

    def expand_dims(self, x: Symbol, /, *, axis: int = 0) -> Symbol:
        place = axis % (x.ndim + 1)
        return x._reshaped((*x.shape[:place], 1, *x.shape[place:]))

    def reshape(self, x: Symbol, /, shape: Shape) -> Symbol:
        kept = [length for length in x.shape if length != 1]
        if len(kept) != 1 or [length for length in shape if length != 1] not in ([-1], kept):
            raise UntraceableError("it changes the shape of an array")
        return x._reshaped(tuple(kept[0] if length != 1 else 1 for length in shape))

    # -- reductions ------------------------------------------------------------------------------

    def sum(self, x: Symbol, /, *, axis: Any = None, keepdims: Any = False) -> Symbol:
        return self._reduce("sum", x, axis, keepdims)

    def max(self, x: Symbol, /, *, axis: Any = None, keepdims: Any = False) -> Symbol:
        return self._reduce("max", x, axis, keepdims)

    def min(self, x: Symbol, /, *, axis: Any = None, keepdims: Any = False) -> Symbol:
        return self._reduce("min", x, axis, keepdims)

    def _reduce(self, kind: str, x: Symbol, axis: Any, keepdims: Any) -> Symbol:
        if not isinstance(axis, int):
            raise UntraceableError(f"its {kind} runs along {axis!r}")
        place = axis % x.ndim
        if x.shape[place] == 1:
            return x if keepdims else self.squeeze(x, axis=place)
        if x.shape[place] is ROWS and kind == "sum":
            total = x.graph.apply(OVER_ROWS, (x.number,), x.dtype)
            shape = (*x.shape[:place], *(1,) * bool(keepdims), *x.shape[place + 1 :])
            return Symbol(x.graph, total, shape)
        if x.shape[place] is not COLUMNS:
            raise UntraceableError(f"its {kind} runs along another axis than the op")
        if x.dtype not in FLOATING:
            raise UntraceableError(f"its {kind} is of {x.dtype}")
        shape = (*x.shape[:place], 1, *x.shape[place + 1 :])
        node = x.graph.nodes[x.number]
        if node.kind == OVER_ROWS and kind == "sum":  # all that there is: first along the row
            table = Symbol(x.graph, node.arguments[0], (ROWS, COLUMNS))
            return self.sum(self.sum(table, axis=1), axis=0)
        if node.columns:
            out = Symbol(x.graph, x.graph.apply(kind, (x.number,), x.dtype), shape)
        else:  # one number, repeated along the row
            out = x._reshaped(shape)
            if kind == "sum":
                length = x.graph.apply("astype", (x.graph.length(),), x.dtype)
                out = elementwise("multiply", out, Symbol(x.graph, length, ()))
        return out if keepdims else self.squeeze(out, axis=place)

    # -- creation --------------------------------------------------------------------------------

    def arange(self, stop: Any, /, *, dtype: Any = None, device: Any = None) -> "Symbol":
        if stop is not COLUMNS or dtype not in (None, INTEGER):
            raise UntraceableError("it counts something else than the entries of a row")
        return Symbol(self._graph, self._graph.index(), (COLUMNS,))


def _function(kind: str, operands: int) -> Callable[..., Symbol]:
    def function(self: Tracer, /, *given: Any) -> Symbol:
        if len(given) != operands:
            raise UntraceableError(f"it calls {kind} with {len(given)} arguments")
        return elementwise(kind, *given)

    return function


_UNARY = """abs ceil exp expm1 floor isfinite isinf isnan log log1p log2 logical_not negative
    sqrt tanh trunc"""
_BINARY = """add divide equal greater greater_equal less less_equal logical_and logical_or maximum
    minimum multiply not_equal pow subtract"""
for _kind in _UNARY.split():
    setattr(Tracer, _kind, _function(_kind, 1))
for _kind in _BINARY.split():
    setattr(Tracer, _kind, _function(_kind, 2))


class Kind(enum.Enum):
    """What an array is to the rows that a program runs on."""

    TABLE = (ROWS, COLUMNS)
    ROW = (ROWS,)
    ROW_KEPT = (ROWS, 1)
    COLUMN = (COLUMNS,)
    NUMBER = ()


class Input(NamedTuple):
    """An array that a program takes."""

    kind: Kind
    dtype: np.dtype[Any]


class Trace(NamedTuple):
    """What a function computes: the nodes of its results, and what arrays these are."""

    graph: Graph
    outputs: tuple[int, ...]
    kinds: tuple[Kind, ...]
    structure: Any
    """The nest of tuples that the function returns, with the numbers of outputs at its leaves."""

    def summed(self) -> "Trace":
        """Return the trace with its first result, where that is a table, summed along the rows.

        A reduced loss needs no more of its values, and a table of them need not be written.
        """
        if self.kinds[0] is not Kind.TABLE:
            return self
        values = Symbol(self.graph, self.outputs[0], Kind.TABLE.value)
        total = Tracer(self.graph).sum(values, axis=-1)
        return self._replace(
            outputs=(total.number, *self.outputs[1:]), kinds=(Kind.ROW, *self.kinds[1:])
        )


def trace(
    function: Callable[..., Any],
    inputs: Sequence[Input | None],
    parameters: Mapping[str, Any],
    dtype: np.dtype[Any],
) -> Trace:
    """Run a body or rule on symbols; None stands for an optional array that is left out."""
    graph = Graph(dtype)
    arrays = [
        None
        if one is None
        else Symbol(
            graph,
            graph.input(number, one.dtype, ROWS in one.kind.value, COLUMNS in one.kind.value),
            one.kind.value,
        )
        for number, one in enumerate(inputs)
    ]
    try:
        result = function(Tracer(graph), *arrays, **parameters)
    except UntraceableError:
        raise
    except Exception as error:  # a body that does not expect symbols
        raise UntraceableError(f"tracing it raised {error!r}") from error
    found: list[Symbol] = []
    structure = _collect(result, found)
    kinds = tuple(_kind_of(symbol) for symbol in found)
    if any(graph.nodes[n].kind == OVER_ROWS for node in graph.nodes for n in node.arguments):
        raise UntraceableError("it works on with a sum over all rows")
    return Trace(graph, tuple(symbol.number for symbol in found), kinds, structure)


def _collect(result: Any, found: list[Symbol]) -> Any:
    if isinstance(result, tuple):
        return tuple(_collect(one, found) for one in result)
    if result is None:
        return None
    if not isinstance(result, Symbol):
        raise UntraceableError(f"it returns {result!r}")
    found.append(result)
    return len(found) - 1


def _kind_of(symbol: Symbol) -> Kind:
    try:
        return Kind(symbol.shape)
    except ValueError:
        raise UntraceableError(f"it returns an array of shape {symbol.shape}") from None
