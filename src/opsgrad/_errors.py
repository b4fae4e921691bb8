"""The errors of opsgrad.

Each one derives from `OpsgradError` and from the builtin exception that people already catch for
that mistake. Messages begin with the op, name the argument, and say what was got and what was
expected.
"""


class OpsgradError(Exception):
    """Base class of every error that opsgrad raises on purpose.

    Examples
    --------
    >>> import opsgrad as og
    >>> try:
    ...     og.softmax([1.0, 2.0], axis=3)
    ... except og.OpsgradError as error:
    ...     print(error)
    softmax: axis must lie in [-1, 1) for x of shape (2,), got 3
    """


class ArgumentError(OpsgradError, TypeError):
    """A wrong number of arguments, an unknown keyword, or an argument of a wrong type."""


class DTypeError(OpsgradError, TypeError):
    """An array of a data type that the op does not take, or that would lose precision silently."""


class ShapeError(OpsgradError, ValueError):
    """Array shapes that do not fit each other."""


class ParameterError(OpsgradError, ValueError):
    """A parameter whose value lies outside the range in which the op is defined."""


class AxisError(OpsgradError, ValueError, IndexError):
    """An axis that the array does not have."""


class LabelError(OpsgradError, ValueError, IndexError):
    """An integer label that names no class."""


class MixedBackendsError(OpsgradError, TypeError):
    """Arrays of two libraries in one call."""


class DeviceError(OpsgradError, ValueError):
    """Arrays on two devices in one call."""


class UnknownBackendError(OpsgradError, ValueError):
    """A backend name that nothing answers to."""


class BackendUnavailableError(OpsgradError, RuntimeError):
    """A known backend that cannot run here; the message says why and what to install."""


class RuleError(OpsgradError, TypeError):
    """An op that lacks the backward rule asked for, or a rule that does not fit its op."""
