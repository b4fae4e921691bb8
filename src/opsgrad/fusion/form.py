"""What direct calls are, for whoever asks for one: see `opsgrad.fusion.direct`."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Form(NamedTuple):
    """How a direct call takes its arrays, and what it returns."""

    bound: tuple[Any, ...] = ()
    """An array of one number, if any, that the kernel takes before those of the caller."""
    classes: tuple[int, ...] = ()
    """For each array of the caller, how many classes its labels name, 0 where it holds none: a call
    with any other label is not taken. Empty: nothing is looked at."""
    shapes: tuple[tuple[int, ...] | None, ...] = ()
    """The shapes that the results must have, None for any; else there is no direct call. Empty: all
    are right."""
    places: tuple[int, ...] = ()
    """The place of each result in the tuple that is returned. Empty: one after the other."""
    size: int | None = None
    """The length of that tuple, with None where no result is; None: the first is returned alone."""


Learnt = Callable[[Callable[..., Any] | None], Callable[..., Any] | None]
"""Takes a direct call, or None, and returns one for what it knows and for more arrays."""
