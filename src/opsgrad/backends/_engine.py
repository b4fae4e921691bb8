"""How backends use the CPU engine: for large arrays, and for whatever is compiled."""

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from opsgrad._typing import Array
from opsgrad.backends._tasks import MOST_KNOWN, MOST_PARAMETERS, task_of, why_not
from opsgrad.backends.protocol import JOINT, Work, frozen, not_installed, nothing
from opsgrad.fusion.form import Form, Learnt

FROM = int(os.environ.get("OPSGRAD_FUSE_FROM", "16384"))
"""From so many entries on a kernel is compiled if there is none; below, the body runs as it is."""

_known: dict[Any, Any] = {}
"""The compiled bodies and rules, by what they compute; what runs as it is written is there too.

All backends share them: what NumPy arrays had compiled serves tensors of PyTorch."""


@functools.cache
def why_unavailable() -> str | None:
    """Say why there is no engine here, as a clause, or None if there is one."""
    return not_installed("llvmlite", "llvmlite is not installed: pip install 'opsgrad[cpu]'")


def offer(work: Work, fallback: Callable[..., Any] = nothing) -> "Offered | str":
    """Return a kernel on NumPy arrays for a body or rule, or say why there is none.

    Where nothing compiled takes the arrays it returns what `fallback` gives.
    """
    reason = why_unavailable() or why_not(work)
    if reason is not None:
        return reason
    try:
        return Offered(work, fallback)
    except TypeError:
        return "a parameter cannot be hashed"


class Offered:
    """A body or rule that runs compiled where that pays, and as it is where it does not."""

    def __init__(self, work: Work, fallback: Callable[..., Any]) -> None:
        self.work = work
        # Body and rule by themselves may have kernels.
        self.fallback = nothing if work.role == JOINT else fallback
        self.key = (work.function, frozen(work.parameters), np.dtype(work.dtype), work.names)
        hash(self.key)
        self._compiled: Any = None
        self._seen = -1
        self._asked: tuple[Form, Callable[[Learnt], None]] | None = None

    def __call__(self, *arrays: Array | None) -> Any:
        number = len(_known)
        if number != self._seen:  # something was compiled since: perhaps this
            self._compiled = _known.get(self.key)
            self._seen = number  # last: to another thread it says that the line above is done
        if self._compiled is None:
            for array in arrays:
                if array is not None and array.size >= FROM:
                    self._compiled = self._fused()
                    break
            else:
                return self.fallback(*arrays)
        out = self._compiled(*arrays)
        if out is None:
            return self.fallback(*arrays)
        asked = self._asked  # once: another thread may have told meanwhile
        if asked is not None:
            self._asked = None
            self._tell(arrays, *asked)
        return out

    def ask(self, form: Form, told: Callable[[Learnt], None]) -> None:
        """Have `told` be told how to call the kernel directly, when it first runs."""
        self._asked = form, told

    def _tell(
        self, arrays: tuple[Array | None, ...], form: Form, told: Callable[[Learnt], None]
    ) -> None:
        learnt = self._compiled.learnt(arrays, form)
        if learnt is not None:
            told(learnt)

    @functools.cached_property
    def task(self) -> Any:
        """What is to be compiled."""
        return task_of(self.work)

    def _fused(self) -> Any:
        from opsgrad.fusion import cpu, tables

        if len(_known) >= MOST_KNOWN:
            _known.clear()
        alike = sum(key[0] is self.work.function for key in list(_known))
        if alike >= MOST_PARAMETERS or tables.why_not(self.task, sums_over_rows=True):
            return _known.setdefault(self.key, nothing)
        return _known.setdefault(self.key, cpu.Fused(self.task, FROM))

    def words(self, otherwise: str = "below") -> str:
        """Say what runs; `otherwise` says when it is not the compiled loop."""
        from opsgrad.fusion import tables

        reason = tables.why_not(self.task, sums_over_rows=True)
        apart = "value, then vjp" if self.work.role == JOINT else "as it is written"
        if reason is not None:
            return f"{apart}, because no kernel can be made of it: {reason}"
        compiled = f"a compiled loop from {FROM:,} entries on, or once it is there"
        return f"{compiled}; {otherwise} {apart}"
