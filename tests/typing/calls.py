"""What a type checker says of calls: mypy --strict fails if an ignore below is not needed."""

import opsgrad as og

x = [1.0, 2.0]
og.softmax(x)
og.softmax(x, axis=0)
og.softmax(x, axis=0, backend="numpy")
og.softmax(x, axes=0)  # type: ignore[call-overload]
og.softmax(x, axis="last")  # type: ignore[call-overload]
og.softmax(x=x)  # type: ignore[call-overload]
og.softmax_cross_entropy(x, x, reduction="mean")
og.softmax_cross_entropy(x, x, reduction="average")  # type: ignore[call-overload]
og.vjp(og.softmax, x, axis=0)
og.vjp(og.softmax, x, axis=0, backend="numpy")
og.vjp(og.softmax, x, axes=0)  # type: ignore[call-arg]
og.jvp(og.softmax, (x,), (x,), axis=0)
