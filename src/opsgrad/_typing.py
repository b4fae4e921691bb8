"""The two words every op is written in: arrays, and the namespace that computes on them."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

# No protocol can describe "an array of any library, or a list, or a number": the libraries' own
# stubs disagree on the types of `shape`, `dtype` and the operators. What a body may call is
# checked through `Namespace` instead, which lists the functions of the array API standard.
Array: TypeAlias = Any
"""An array of any library that follows the array API standard."""

DType: TypeAlias = Any
"""A data type object of some array namespace."""

ArrayFunction: TypeAlias = Callable[..., Array]


class Namespace(Protocol):
    """The functions of the array API standard, version 2023.12, that a body may use.

    An op's body and rules receive such a namespace as their first argument, ``xp``. A type checker
    reports a function that is not part of the standard.
    """

    float32: DType
    float64: DType

    # elementwise
    abs: ArrayFunction
    ceil: ArrayFunction
    clip: ArrayFunction
    cos: ArrayFunction
    equal: ArrayFunction
    exp: ArrayFunction
    expm1: ArrayFunction
    floor: ArrayFunction
    isfinite: ArrayFunction
    isinf: ArrayFunction
    isnan: ArrayFunction
    log: ArrayFunction
    log1p: ArrayFunction
    log2: ArrayFunction
    maximum: ArrayFunction
    minimum: ArrayFunction
    pow: ArrayFunction
    round: ArrayFunction
    sign: ArrayFunction
    sin: ArrayFunction
    sqrt: ArrayFunction
    square: ArrayFunction
    tanh: ArrayFunction
    trunc: ArrayFunction
    where: ArrayFunction

    # reductions
    all: ArrayFunction
    any: ArrayFunction
    max: ArrayFunction
    mean: ArrayFunction
    min: ArrayFunction
    prod: ArrayFunction
    sum: ArrayFunction

    # linear algebra
    matmul: ArrayFunction
    matrix_transpose: ArrayFunction
    tensordot: ArrayFunction

    # creation
    arange: ArrayFunction
    asarray: ArrayFunction
    empty: ArrayFunction
    full: ArrayFunction
    full_like: ArrayFunction
    ones: ArrayFunction
    ones_like: ArrayFunction
    zeros: ArrayFunction
    zeros_like: ArrayFunction

    # shapes and data types
    astype: ArrayFunction
    broadcast_to: ArrayFunction
    concat: ArrayFunction
    expand_dims: ArrayFunction
    finfo: Callable[..., Any]
    isdtype: Callable[..., bool]
    moveaxis: ArrayFunction
    permute_dims: ArrayFunction
    reshape: ArrayFunction
    result_type: Callable[..., DType]
    squeeze: ArrayFunction
    stack: ArrayFunction
