"""What would run a call, and why."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from opsgrad._errors import ArgumentError
from opsgrad._op import Op, unwrap


class Choice(NamedTuple):
    """What would run a call of an op; printed, a sentence for each of its roles.

    Attributes
    ----------
    op : str
        The op's name.
    backend : str
        The name of the backend.
    why : str
        Why it is this backend.
    engines : Mapping of str to str
        What runs there, by role: "value", "vjp", "jvp", "value_and_grad".
    """

    op: str
    backend: str
    why: str
    engines: Mapping[str, str]

    def __str__(self) -> str:
        """Return the choice in words."""
        width = max(map(len, self.engines)) + 2
        rows = [f"  {role:<{width}}{engine}" for role, engine in self.engines.items()]
        return "\n".join([f"{self.op} runs on {self.backend}, because {self.why}", *rows])

    def __repr__(self) -> str:
        return str(self)


def which_backend(op: Any, /, *arrays: Any, **parameters: Any) -> Choice:
    """Say what would run a call of an op, and why; nothing is computed or moved.

    Parameters
    ----------
    op : op or functools.partial of one
        Which op. A chain has a choice for each of its stages: ask for them one by one.
    *arrays : array
        Its arrays, as in a call.
    **parameters
        Its parameters, as in a call, ``backend`` included.

    Returns
    -------
    Choice
        With ``backend``, ``why`` and ``engines``, what runs for each of the op's roles. It prints
        as a few lines of text.

    Raises
    ------
    ArgumentError
        A TypeError, if `op` is not an op.
    OpsgradError
        What the call itself would raise.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> choice = og.which_backend(og.softmax, np.zeros((2, 3)))
    >>> choice.backend, choice.why
    ('numpy', 'x is an array of numpy')
    """
    function, complete, backend = unwrap("which_backend", op, parameters)
    if not isinstance(function, Op):
        raise ArgumentError(
            f"which_backend: takes a single op, got {function!r}; ask for each of its stages"
        )
    home, why, engines = function.preview(arrays, complete, backend)
    return Choice(function.__name__, home.name, why, engines)
