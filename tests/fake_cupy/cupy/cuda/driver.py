"""The CUDA driver's own functions."""

CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES = 3


def funcGetAttribute(attribute: int, function: int) -> int:  # noqa: N802
    """Return the bytes of memory that each thread has for what is not in registers."""
    assert attribute == CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES
    assert function
    return 0
