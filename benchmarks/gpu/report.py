"""The page of what was measured on a GPU, and of what is to be reached there."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.gpu.contestants import COMPILED, COPY, EAGER, NAIVE, OURS
from benchmarks.gpu.goals import Goal, Target, least_bytes
from benchmarks.report import markdown

INTRODUCTION = """# Results on a GPU

`make gpu-check` writes this page, on a machine that has a GPU, in at most ten minutes: it runs the
conformance suite and NVIDIA's sanitizer on the CUDA kernels, and times them beside PyTorch, CuPy
and a copy. It installs nothing and needs no network: it runs in the machine's own Python, with the
CuPy, PyTorch and NumPy that are there. `make gpu-check PYTHON=.venv/bin/python` takes another one.

- Needed are CuPy, `array-api-compat` and `mpmath`. Where one is missing it says so, and how to
  bring a wheel along without a network. Conformance needs pytest and hypothesis, and is quicker
  with pytest-xdist; the sanitizer is the toolkit's `compute-sanitizer`. Without PyTorch there are
  no peers, and no cases in bfloat16, which run on PyTorch's tensors. A part that cannot run is
  skipped, and this page says why.
- `make gpu-check ARGUMENTS=--dry-run` needs no GPU: it builds every case, with its kernels, and
  starts nothing. Where `cuda-core` and NVRTC are installed the kernels are compiled too.
- `ARGUMENTS="--parts speed --only softmax"` runs some of it; `--minutes` says how long all of it
  may take. What was measured is written after every step: if the time ends early, the rest is
  missing.

How it is timed: CUDA events around calls that the device starts on only after the host has asked
for all of them; by turns with the peers; medians. Calls take turns on as many sets of arrays as
pass twice through the second-level cache in between, and so do their results. Every result is
first compared with PyTorch's in float32. `torch.compile` is given `max-autotune-no-cudagraphs` and
`dynamic=False`: CUDA graphs would copy arrays that change from call to call. *Of copy* is the rate
of the fewest bytes that a case has to read and write, each array once, as a share of the rate of a
copy of 4 GiB, which counts bytes read and written.
"""
UNMEASURED = "**Not yet measured.** No figure stands here until one was taken on a GPU.\n"
NOTHING = "–"

Row = Mapping[str, Any]


class Verdict(NamedTuple):
    """One part of a target: what was wanted and what was reached."""

    wanted: str
    reached: str
    met: bool


def page(results: Mapping[str, Any] | None, goals: Sequence[Goal]) -> str:
    """Return the page; without results it states that there are none, and the goals."""
    if results is None:
        return "\n".join([INTRODUCTION, UNMEASURED, "## Goals\n", goals_table(goals)])
    parts = [INTRODUCTION, _machine(results)]
    if checks := [*results.get("conformance", []), *results.get("sanitizer", [])]:
        parts.append("## Conformance and sanitizer\n\n" + _checks_table(checks))
    if rows := results.get("speed", []):
        rate = results["copy"]["rate"]
        parts.append(f"## Speed\n\n{summary(results)}\n\n{_speed_table(rows, rate)}")
        if small := [row for row in rows if "host" in row]:
            parts.append("## Small calls\n\nMicroseconds of the host.\n\n" + _host_table(small))
    return "\n".join(parts)


def summary(results: Mapping[str, Any]) -> str:
    """Return how many targets were met, in a sentence."""
    rate = results["copy"]["rate"]
    judged = [(row, verdicts(row, rate)) for row in results["speed"]]
    measured = [(row, found) for row, found in judged if "unable" not in row]
    met = sum(all(one.met for one in found) and not row["wrong"] for row, found in measured)
    return (
        f"The copy of 4 GiB moves {rate / 1e12:.2f} TB/s. Targets met: {met} of "
        f"{len(measured)} cases that were measured; not measured: {len(judged) - len(measured)}."
    )


def verdicts(row: Row, rate: float) -> list[Verdict]:
    """Return whether each part of a row's target was met; nothing if it was not measured."""
    if "unable" in row:
        return []
    target, found = Target(**row["target"]), list[Verdict]()
    seconds = {name: one["middle"] for name, one in row["seconds"].items()}
    if target.share:
        share = row["bytes"] / seconds[OURS] / rate
        found.append(_at_least(f"{target.share:.0%} of copy", share, target.share, "{:.0%}"))
    if target.over_eager:
        ratio = seconds[EAGER] / seconds[OURS] if EAGER in seconds else None
        found.append(
            _at_least(f"{target.over_eager}× {EAGER}", ratio, target.over_eager, "{:.2f}×")
        )
    if target.ahead_of_compiled:
        ratio = seconds[COMPILED] / seconds[OURS] if COMPILED in seconds else None
        found.append(_at_least(f"ahead of {COMPILED}", ratio, 1.0, "{:.2f}×"))
    if target.host:
        found.append(_at_most("of the host", row["host"][OURS], target.host))
    if target.replay:
        found.append(_at_most("in replay", row["replay"], target.replay))
    return found


def _at_least(wanted: str, reached: float | None, target: float, form: str) -> Verdict:
    if reached is None:
        return Verdict(wanted, "not measured", False)
    return Verdict(wanted, form.format(reached), reached >= target)


def _at_most(words: str, reached: float, target: float) -> Verdict:
    return Verdict(f"{target * 1e6:.0f} µs {words}", f"{reached * 1e6:.1f} µs", reached <= target)


def _target_words(target: Target) -> Iterator[str]:
    if target.share:
        yield f"≥ {target.share:.0%} of copy"
    if target.over_eager:
        yield f"≥ {target.over_eager}× {EAGER}"
    if target.ahead_of_compiled:
        yield f"ahead of {COMPILED}"
    if target.host:
        yield f"≤ {target.host * 1e6:.0f} µs of the host"
    if target.replay:
        yield f"≤ {target.replay * 1e6:.0f} µs in replay"


# -- tables ----------------------------------------------------------------------------------------


def goals_table(goals: Sequence[Goal], kernels: Sequence[str] | None = None) -> str:
    """Return the goals, with the kernels that were built for them."""
    head = ("op", "role", "shape", "dtype", "least MiB", "target")
    rows = [
        [
            *(goal.case.name, goal.case.role, goal.case.size, goal.case.dtype),
            f"{least_bytes(goal.case) / 2**20:.4g}",
            ", ".join(_target_words(goal.target)),
        ]
        for goal in goals
    ]
    if kernels is None:
        return markdown(head, rows)
    both = zip(rows, kernels, strict=True)
    return markdown((*head, "kernel"), [[*row, kernel] for row, kernel in both])


def _machine(results: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    gone = "" if results["complete"] else " **Its time ended before all was measured.**"
    return f"**Measured on** {results['gpu']}; {listed}; {results['date']}.{gone}\n"


def _checks_table(checks: Sequence[Row]) -> str:
    return markdown(("check", "clean", "what it said"), [_check(one) for one in checks])


def _check(one: Row) -> list[str]:
    if "skipped" in one and "clean" not in one:
        return [one["of"], NOTHING, f"skipped: {one['skipped']}"]
    words = one.get("said") or ", ".join(
        f"{one[outcome]} {outcome}"
        for outcome in ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
        if one.get(outcome)
    )
    if not one["complete"]:
        words += "; not all of it in its time"
    words = "; ".join([words, *one.get("failures", [])]).replace("\n", "; ").replace("|", "\\|")
    return [one["of"], "yes" if one["clean"] else "✗ no", words]


def _speed_table(rows: Sequence[Row], rate: float) -> str:
    names = (OURS, EAGER, COMPILED, NAIVE, COPY)
    head = ("op", "role", "shape", "dtype", *(f"{name} µs" for name in names), "targets", "engine")
    return markdown(head, [_speed_row(row, rate, names) for row in rows])


def _speed_row(row: Row, rate: float, names: Sequence[str]) -> list[str]:
    start = [row["op"], row["role"], row["size"], row["dtype"]]
    if "unable" in row:
        words = row["unable"].replace("|", "\\|")
        return [*start, *[NOTHING] * len(names), f"not measured: {words}", NOTHING]
    times = [
        f"{row['seconds'][name]['middle'] * 1e6:.4g}" if name in row["seconds"] else NOTHING
        for name in names
    ]
    words = [
        f"{one.reached} (wanted: {one.wanted}){'' if one.met else ' ✗'}"
        for one in verdicts(row, rate)
    ]
    if row["wrong"]:
        words.insert(0, f"✗ wrong: {row['wrong']}")
    return [*start, *times, "; ".join(words), row["engine"].replace("|", "\\|")]


def _host_table(rows: Sequence[Row]) -> str:
    names = [n for n in (OURS, EAGER, COMPILED, NAIVE) if any(n in row["host"] for row in rows)]
    return markdown(
        ("op", "role", "shape", *names),
        [
            [
                *(row["op"], row["role"], row["size"]),
                *(f"{row['host'][n] * 1e6:.1f}" if n in row["host"] else NOTHING for n in names),
            ]
            for row in rows
        ],
    )
