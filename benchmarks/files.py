"""Results as files that are easy to read and to compare."""

import json
from pathlib import Path
from typing import Any


def lines(entry: dict[str, Any]) -> str:
    """Return JSON with a line for each thing measured, and numbers as long as they mean something.

    One number a line would take a megabyte.
    """
    inner = {
        name: "[\n " + ",\n ".join(map(_json, one)) + "\n]" if isinstance(one, list) else _json(one)
        for name, one in entry.items()
    }
    return "{\n" + ",\n".join(f"{_json(name)}: {text}" for name, text in inner.items()) + "\n}\n"


def write(path: Path, text: str) -> None:
    """Write a file, in folders made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _json(thing: Any) -> str:
    return json.dumps(_rounded(thing), ensure_ascii=False)


def _rounded(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {name: _rounded(one) for name, one in thing.items()}
    return float(f"{thing:.4g}") if isinstance(thing, float) else thing
