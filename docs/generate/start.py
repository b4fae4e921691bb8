"""The picture of the start page: an op as it is written, what becomes of it, and how fast."""

import html
import re
import textwrap
from collections.abc import Iterator

import numpy as np
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

import opsgrad as og
from benchmarks.cases import LOSS, VALUE, VJP
from benchmarks.contestants import OURS
from benchmarks.report import Measured
from docs.generate import plots, sources, tables
from opsgrad.fusion import cuda_source
from opsgrad.fusion.cuda_source import Shape
from opsgrad.fusion.llvm import Printer
from opsgrad.fusion.program import WIDTH, Program, schedule
from opsgrad.fusion.trace import Input, Kind, trace

OP = og.softmax
FLOAT = np.dtype(np.float32)
SHAPE = (4096, 1000)
CASES = (
    ("softmax", VALUE),
    ("softmax", VJP),
    ("relumax", VALUE),
    ("relumax", VJP),
    ("sigmoid", VALUE),
    ("softplus", VALUE),
    ("lp_norm", VALUE),
    ("softmax_cross_entropy_with_integer_labels", LOSS),
)
"""What the bars show, those behind the peers among it."""
SHOWN = {OURS: plots.COLOURS[0], "PyTorch": plots.COLOURS[1], "JAX": plots.COLOURS[2]}


def picture(measured: tables.Measurements) -> str:
    """Return the picture as HTML."""
    inputs = [Input(Kind.TABLE, FLOAT)] * 2
    program = schedule(trace(OP.rule("vjp").function, inputs, {"axis": -1}, FLOAT))
    functions = (OP.body, sources.rules(OP)[0])
    written = "\n\n\n".join(sources.definition(one) for one in functions)
    return (
        '<div class="start"><div>'
        + _panel("Written once: softmax and its backward rule", "python", written)
        + _panel("The rule, traced: three passes along each row", "text", str(program))
        + "</div>\n<div>"
        + "".join(_panel(*kernel) for kernel in _kernels(program, inputs))
        + f"</div></div>\n{_bars(measured)}"
    )


def _panel(title: str, language: str, text: str) -> str:
    code = highlight(text, get_lexer_by_name(language), HtmlFormatter(wrapcode=True))
    return f"<figure><figcaption>{html.escape(title)}</figcaption>\n{code}</figure>\n"


def _kernels(program: Program, inputs: list[Input]) -> Iterator[tuple[str, str, str]]:
    """Yield the title, the language and an excerpt of what is printed for each kind of machine."""
    printed = Printer(program, inputs, WIDTH[FLOAT]).print()
    yield "Printed for the CPU: the last pass, 64 floats a step", "llvm", _llvm_excerpt(printed)
    # Rows of 1,000 floats: a warp for each, 8 chunks of 4 in the registers of every thread.
    shape = Shape("rows", threads=128, group=32, cluster=1, chunk=4, chunks=8)
    source = cuda_source.printed(program, inputs, [FLOAT.name] * 3, shape, "softmax_vjp")
    yield "Printed for CUDA: the last pass, a warp a row", "cuda", _cuda_excerpt(source.code)


def _llvm_excerpt(printed: str) -> str:
    """Return what the loop over whole steps of the last pass computes, without its addresses."""
    blocks = re.split(r"^[\w.]+:$", printed, flags=re.MULTILINE)
    whole = [one for one in blocks if "fmul" in one and not re.search("masked|select", one)]
    lines = re.findall(r"^ *(.*(?:fsub|fmul|store) .*)$", whole[-1], flags=re.MULTILINE)
    return re.sub(r'%"([\w.]+)"', r"%\1", "\n".join(lines))


def _cuda_excerpt(code: str) -> str:
    """Return the last loop over what a thread holds of a row."""
    indent = "    "
    shown = code[code.rindex(f"{indent}UNROLLED for (int k") :].splitlines()
    return textwrap.dedent("\n".join(line for line in shown if line.startswith(indent)))


def _bars(measured: tables.Measurements) -> str:
    chosen = [found for case in CASES for found in _measured(measured, *case)]
    if not chosen:
        return ""
    half = -(-len(chosen) // 2)
    panels = "".join(
        f"<figure>{_bar_chart(part)}</figure>" for part in (chosen[:half], chosen[half:]) if part
    )
    machine = measured.speed.results["speed"]
    words = (
        f"Milliseconds for float32 arrays of {SHAPE[0]}×{SHAPE[1]}, {machine['threads']} threads "
        f"for everybody, measured on {machine['cpu']}. Shorter is better."
    )
    return f'<div class="plots">{panels}</div>\n<p class="caption">{html.escape(words)}</p>'


def _measured(measured: tables.Measurements, op: str, role: str) -> Iterator[Measured]:
    for one in measured.speed.cases:
        case = one.case
        if (case.op, case.role, case.shape, case.dtype) == (op, role, SHAPE, FLOAT.name):
            yield one


def _bar_chart(cases: list[Measured]) -> str:
    with plots.figure("milliseconds", (plots.SIZE[0], 0.9 + 0.62 * len(cases))) as (drawn, axes):
        for step, (name, colour) in enumerate(SHOWN.items()):
            rows = [n for n, one in enumerate(cases) if name in one.seconds]
            widths = [cases[n].seconds[name] * 1e3 for n in rows]
            bars = axes.barh(
                [n + 0.24 * (step - 1) for n in rows], widths, 0.22, color=colour, label=name
            )
            axes.bar_label(bars, [f"{w:.2g}" for w in widths], padding=2, fontsize=8)
        axes.set_yticks(range(len(cases)), [_short(one) for one in cases])
        axes.set_ylim(len(cases) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.12)
        plots.legend(axes, 3)
    return drawn.text


def _short(one: Measured) -> str:
    name = "label\ncross-entropy" if one.case.role == LOSS else one.case.op
    role = {VALUE: "", VJP: ", VJP", LOSS: ",\nwith gradient"}[one.case.role]
    return f"{name}{role}"
