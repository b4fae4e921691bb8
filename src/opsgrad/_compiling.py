"""What torch.compile must not look into."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def constant(function: Function) -> Function:
    """Have torch.compile call `function` when it compiles, and take the result for constant.

    It cannot trace context variables, imports, or NumPy's error state. The attribute is what
    ``torch.compiler.assume_constant_result`` sets, which would need an import of PyTorch.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
