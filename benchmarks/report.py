"""Turn the JSON of `make bench` into a Markdown table: times, and the ratio to the best peer."""

import json
import sys
from pathlib import Path
from typing import Any


def table(results: dict[str, Any]) -> str:
    """Return the Markdown table of pytest-benchmark's results."""
    times: dict[tuple[str, str], dict[str, float]] = {}
    for one in results["benchmarks"]:
        info = one["extra_info"]
        key = info["op"], "{}×{}".format(*info["shape"])
        times.setdefault(key, {})[info["contestant"]] = one["stats"]["min"] * 1e3
    peers = sorted({name for row in times.values() for name in row} - {"opsgrad"}, reverse=True)
    lines = [
        "| op | shape | opsgrad, ms | "
        + " | ".join(f"{p}, ms" for p in peers)
        + " | fastest peer / ours |",
        "|---|---|---|" + "---|" * (len(peers) + 1),
    ]
    for (op, shape), row in times.items():
        cells = [f"{row[p]:.3g}" if p in row else "–" for p in peers]
        best = min((row[p] for p in peers if p in row), default=float("nan"))
        lines.append(
            f"| {op} | {shape} | {row['opsgrad']:.3g} | {' | '.join(cells)} "
            f"| {best / row['opsgrad']:.2f} |"
        )
    machine = results["machine_info"]
    versions = machine.get("versions", {})
    lines += [
        "",
        f"{machine['cpu']['brand_raw']}, one thread, float32; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + "; minima over the rounds of one run.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    source = Path(sys.argv[1])
    text = table(json.loads(source.read_text()))
    source.with_suffix(".md").write_text(text)
    print(text)
