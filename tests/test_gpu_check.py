"""`make gpu-check` without a GPU: everything is built, nothing is started, no figure is made up."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opsgrad as og
from benchmarks.cases import LOSS, VALUE, VJP, Case
from benchmarks.gpu import __main__ as gpu_check
from benchmarks.gpu import checks, contestants, goals, kernels, launches, report, speed, timing
from benchmarks.gpu.contestants import COMPILED, COPY, EAGER, NAIVE, OURS, Arrays
from benchmarks.gpu.goals import ROW_BACKWARD, SMALL, Goal, Target
from benchmarks.gpu.timing import Timing
from opsgrad.backends import _gpu

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks/results/gpu.json", ROOT / "docs/gpu-results.md"
LABELLED = "softmax_cross_entropy_with_integer_labels"


def dry_run(tmp_path: Path, *arguments: str) -> int:
    files = ["--results", str(tmp_path / "gpu.json"), "--page", str(tmp_path / "page.md")]
    return gpu_check.main(["--dry-run", *files, *arguments])


# -- the dry run -----------------------------------------------------------------------------------


def test_dry_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "compiler_is_there", lambda: False)
    assert dry_run(tmp_path) == 0
    said = capsys.readouterr().out
    assert f"{len(goals.goals())} cases, kernels printed; NVRTC is not there" in said
    (loss,) = [line for line in said.splitlines() if "loss and gradient" in line]
    assert loss.endswith("| 512 threads in each of 8 blocks for a row, 32 entries each |")
    assert "| softmax | value | 8192×1024 | bfloat16 | 32 | ≥ 58% of copy | 32 threads" in said
    assert "Not yet measured" in (tmp_path / "page.md").read_text()


@pytest.mark.skipif(not kernels.compiler_is_there(), reason="cuda-core is not installed")
def test_dry_run_compiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(tmp_path, "--only", "softmax, value, 64×1024") == 0
    said = capsys.readouterr().out
    assert "kernels compiled for sm_90" in said
    assert " registers |" in said


def test_a_case_without_a_kernel_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = [Goal(Case("dense", VALUE, (4, 4), "float32"), Target(share=0.9))]
    monkeypatch.setattr(goals, "goals", lambda: planted)
    assert dry_run(tmp_path) == 1
    assert "dense, value, 4×4, float32: there is no kernel for its value" in capsys.readouterr().out


def test_a_kernel_that_cannot_be_printed_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from opsgrad.fusion import cuda

    monkeypatch.setattr(cuda, "source_of", lambda *_: cuda.Source("softmax", "nothing"))
    monkeypatch.setattr(kernels, "compiler_is_there", lambda: False)
    assert dry_run(tmp_path, "--only", "softmax, value, 64") == 1
    assert "what is printed has no function softmax" in capsys.readouterr().out


def test_no_case_is_left(tmp_path: Path) -> None:
    assert dry_run(tmp_path, "--only", "no such op") == 1


def test_no_gpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "_why_no_gpu", lambda: "there is none")
    assert gpu_check.main([]) == 2
    assert "This needs a GPU: there is none" in capsys.readouterr().err


def test_what_is_missing_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "NEEDED", {"numpy": "numpy", "no_such_module": "no-such-name"})
    assert gpu_check.main(["--dry-run"]) == 2
    assert "-m pip install no-such-name\n" in capsys.readouterr().err


# -- the goals -------------------------------------------------------------------------------------


def test_least_bytes() -> None:
    def mib(op: str, role: str, dtype: str = "float32", **keywords: Any) -> float:
        return goals.least_bytes(Case(op, role, (1024, 1024), dtype, **keywords)) / 2**20

    assert mib("softmax", VALUE) == 8
    assert mib("softmax", VALUE, "bfloat16") == 4
    assert mib("softmax", VALUE, axis=0) == 8
    assert mib("softmax", VJP) == 12
    assert mib("l2_norm", VALUE) == 4 + 1 / 256
    assert mib(LABELLED, LOSS, "bfloat16") == 4 + 1 / 128  # labels have 8 bytes


def test_every_goal_wants_something_and_has_a_name_of_its_own() -> None:
    assert all(any(goal.target) for goal in goals.goals())
    assert len({goal.name for goal in goals.goals()}) == len(goals.goals())


# -- the page --------------------------------------------------------------------------------------


def row(op: str, target: Target, microseconds: dict[str, float], **more: Any) -> dict[str, Any]:
    goal = Goal(Case(op, VALUE, (8192, 1024), "float32"), target)
    seconds = {n: {"middle": t * 1e-6, "least": 0.0, "rounds": 5} for n, t in microseconds.items()}
    measured = {"engine": "a CUDA kernel", "wrong": None, "seconds": seconds, "without": {}}
    return {**speed._row(goal), **measured, **more}


def made_up() -> dict[str, Any]:
    """Return results that nobody measured: 64 MiB in 67 µs are a rate of 1 TB/s."""
    small = {"host": {OURS: 9e-6, EAGER: 12e-6}, "replay": 4e-6}
    return {
        "gpu": "a made-up GPU",
        "date": "2000-01-01",
        "versions": {"cupy": "0"},
        "complete": False,
        "conformance": [checks.tallied("= 3 passed in 1s =", 0) | {"of": "conformance on cupy"}],
        "sanitizer": [{"of": "memcheck", "skipped": "compute-sanitizer is not installed"}],
        "copy": {"rate": 1e12},
        "speed": [
            row("softmax", Target(share=0.9), {OURS: 70.0, COPY: 67.0}),
            row("relumax", Target(share=0.9), {OURS: 100.0}),
            row("softmax", ROW_BACKWARD, {OURS: 70.0, EAGER: 140.0, COMPILED: 60.0}),
            row("tanh", SMALL, {OURS: 2.0}, **small),
            row("sigmoid", Target(share=0.5), {OURS: 70.0}, wrong="3 of 4 entries are wrong"),
            speed._row(goals.goals()[0]) | {"unable": "the time was over"},
        ],
    }


def test_misses_are_marked() -> None:
    page = report.page(made_up(), goals.goals())
    assert "Not yet measured" not in page
    assert "a made-up GPU; cupy 0; 2000-01-01. **Its time ended before all" in page
    assert "| conformance on cupy | yes | 3 passed |" in page
    assert "| memcheck | – | skipped: compute-sanitizer is not installed |" in page
    assert "Targets met: 1 of 5 cases that were measured; not measured: 1." in page
    assert "| 96% (wanted: 90% of copy) |" in page
    assert "| 67% (wanted: 90% of copy) ✗ |" in page
    assert "2.00× (wanted: 1.7× PyTorch); 0.86× (wanted: ahead of torch.compile) ✗" in page
    assert "9.0 µs (wanted: 10 µs of the host); 4.0 µs (wanted: 3 µs in replay) ✗" in page
    assert "✗ wrong: 3 of 4 entries are wrong; 96%" in page
    assert "not measured: the time was over" in page
    for table in (part for part in page.split("\n\n") if part.startswith("|")):
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1


def test_a_peer_that_is_missing_is_a_miss() -> None:
    (verdict,) = report.verdicts(row("softmax", Target(over_eager=1.7), {OURS: 1.0}), 1e12)
    assert (verdict.reached, verdict.met) == ("not measured", False)


@pytest.mark.parametrize("place", [None, "wrong", "broken", "clean"])
def test_what_is_wrong_fails_the_run(place: str | None) -> None:
    results = made_up()
    del results["speed"][-2]
    assert not gpu_check.is_wrong(results)
    if place == "clean":
        results["conformance"][0]["clean"] = False
    elif place is not None:
        results["speed"][0][place] = "planted"
    assert gpu_check.is_wrong(results) == (place is not None)


def test_the_page_holds_what_was_measured_and_nothing_else() -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else None
    assert PAGE.read_text() == report.page(results, goals.goals())


# -- the checks ------------------------------------------------------------------------------------


def test_tally() -> None:
    text = "FAILED suite.py::test_a - assert 0\n= 1 failed, 20 passed, 2 errors in 3.1s (0:00:03) ="
    found = checks.tallied(text, 1)
    assert (found["passed"], found["failed"], found["error"]) == (20, 1, 2)
    assert found["complete"]
    assert not found["clean"]
    assert found["failures"] == ["FAILED suite.py::test_a - assert 0"]
    assert checks.tallied("20 passed in 3s", None) | {"complete": True} == checks.tallied(
        "20 passed in 3s", 0
    )
    broken = checks.tallied("no module named x", 4)
    assert not broken["clean"]
    assert broken["said"] == "no module named x"


def test_sanitized() -> None:
    assert checks.sanitized("x\n===== ERROR SUMMARY: 0 errors\n", 0)["clean"]
    found = checks.sanitized("x\n===== ERROR SUMMARY: 2 errors\n", checks.FOUND)
    assert (found["clean"], found["said"]) == (False, "===== ERROR SUMMARY: 2 errors")
    assert not checks.sanitized("", None)["complete"]


def test_a_process_whose_time_is_over_is_stopped() -> None:
    import signal
    import sys

    code = "import time; print('started', flush=True); time.sleep(60)"
    status, text = checks._run([sys.executable, "-c", code], 2.0, signal.SIGTERM)
    assert (status, text) == (None, "started\n")


# -- the contestants, on stand-ins -----------------------------------------------------------------


@pytest.fixture
def on_stand_in(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Let CuPy's stand-in and PyTorch on the CPU be the GPU."""
    torch = pytest.importorskip("torch")

    def tensor(array: Any) -> Any:
        return array.detach() if isinstance(array, torch.Tensor) else torch.tensor(array.get())

    rng = np.random.default_rng(0)
    monkeypatch.setattr(contestants, "tensor", tensor)
    monkeypatch.setattr(contestants, "_gpu_torch", lambda: torch)
    library = contestants.Library(
        lambda shape, dtype: cupy.array(rng.standard_normal(shape).astype(dtype)),
        lambda shape, classes: cupy.array(rng.integers(0, classes, shape)),
    )
    monkeypatch.setattr(contestants, "_cupy_library", lambda: library)
    monkeypatch.setattr(contestants, "sets_needed", lambda _: 2)
    return torch


CASES = [
    Case("sigmoid", VJP, (40,), "float32"),
    Case("softmax", VALUE, (3, 40), "float32"),
    Case("softmax", VALUE, (40, 3), "float32", axis=0),
    Case("relumax", VJP, (3, 40), "float32"),
    Case(LABELLED, LOSS, (3, 40), "float32"),
    Case("lp_norm", VALUE, (3, 40), "float32", parameters={"p": 3.0}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.role}-{case.axis}")
def test_contestants_agree(case: Case, on_stand_in: Any) -> None:
    arrays = contestants.sets(case)
    assert len(arrays) == 2
    calls = contestants.ours(case, arrays)
    assert contestants.engine(case, arrays[0]).startswith("a CUDA kernel")
    makers = contestants.others(case, arrays)
    assert set(makers) == {NAIVE, EAGER, COMPILED}
    for place, one in enumerate(arrays):
        expected = contestants.reference(case, one)
        assert contestants.why_wrong(calls[place](), expected, "float32") is None
        eager = makers[EAGER]()[place]()
        naive = makers[NAIVE]()[place]()
        assert contestants.why_wrong(naive, eager, "float32") is None
    other = contestants.reference(case, arrays[1])
    assert "entries are wrong" in str(contestants.why_wrong(calls[0](), other, "float32"))


def test_what_the_sanitizer_watches_is_compared(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for op, shape in (("softplus", (65,)), ("softmax", (2, 9, 4)), (LABELLED, (4, 64))):
        assert launches.agrees(cupy, op, shape, "float32")
    started = [name for name, *_ in cupy.history.launches]
    assert f"opsgrad_{LABELLED}_value_and_grad" in started
    monkeypatch.setattr(_gpu, "offer", lambda *_: "the compiler is gone")
    assert not launches.agrees(cupy, "softplus", (66,), "float32")
    monkeypatch.undo()
    monkeypatch.setattr(cupy.ndarray, "get", lambda array: array._host + 1.0)
    assert not launches.agrees(cupy, "softplus", (65,), "float32")


def test_nan_is_wrong() -> None:
    whole = np.ones(4)
    assert contestants.why_wrong(whole, whole, "float32") is None
    assert contestants.why_wrong(whole * np.nan, whole, "float32") == "4 of 4 entries are wrong"
    assert str(contestants.why_wrong(np.ones(3), whole, "float32")).startswith("its shape is")


def test_bfloat16_runs_on_pytorch(on_stand_in: Any) -> None:
    case = Case("softmax", VALUE, (3, 40), "bfloat16")
    x = on_stand_in.randn((3, 40)).to(on_stand_in.bfloat16)
    arrays = Arrays((x,), x)
    assert set(contestants.others(case, [arrays])) == {EAGER, COMPILED}
    (call,) = contestants.ours(case, [arrays])
    assert contestants.why_wrong(call(), contestants.reference(case, arrays), "bfloat16") is None


class Clockless:
    """In place of a GPU: it runs calls once, and times nothing."""

    def times(self, calls: Any, _: float) -> dict[str, Timing]:
        for one in calls.values():
            timing._run(one, 3)
        return dict.fromkeys(calls, Timing(1e-6, 1e-6, 5))

    def host_time(self, _: Any) -> float:
        return 1e-6

    replay_time = host_time

    def free(self) -> None:
        pass


def test_goals_are_measured_until_the_time_is_over(
    on_stand_in: Any, cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from time import perf_counter

    def no_copies(moved: int) -> Any:
        return [lambda: None]

    monkeypatch.setattr(contestants, "copies", no_copies)
    wanted = [
        Goal(Case("softmax", VALUE, (3, 40), "float32"), SMALL),
        Goal(Case("no such op", VALUE, (3, 40), "float32"), SMALL),
    ]
    monkeypatch.setattr(speed, "_row", lambda goal: {"target": goal.target._asdict()})
    gpu: Any = Clockless()
    measured, broken = speed.measure(gpu, wanted, perf_counter() + 5.0)
    assert measured["wrong"] is None
    assert set(measured["seconds"]) == {OURS, COPY, NAIVE, EAGER}
    assert "no time" in measured["without"][COMPILED]
    assert {*measured["host"]} == {*measured["seconds"]}
    assert broken["broken"]
    monkeypatch.setattr(contestants, "engine", lambda *_: "the body as it is written")
    (slow,) = speed.measure(gpu, wanted[:1], perf_counter() + 5.0)
    assert slow["wrong"] == "it runs without a kernel"
    (late,) = speed.measure(gpu, wanted[:1], perf_counter())
    assert late["unable"] == "the time was over"


def test_a_run_writes_what_it_has_after_every_step(
    on_stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, page = tmp_path / "gpu.json", tmp_path / "page.md"
    seen: list[str] = []

    def watched(tool: str, seconds: float) -> dict[str, Any]:
        seen.append(page.read_text())
        return {"of": tool, "clean": tool == "memcheck", "complete": True, "said": "made up"}

    goal = Goal(Case("softmax", VALUE, (3, 40), "float32"), SMALL)
    monkeypatch.setattr(goals, "goals", lambda: [goal])
    monkeypatch.setattr(gpu_check, "_why_no_gpu", lambda: None)
    monkeypatch.setattr(gpu_check, "_gpu", lambda: "a made-up GPU")
    monkeypatch.setattr(gpu_check, "_versions", lambda: {"cupy": "0"})
    monkeypatch.setattr(checks, "conformance", lambda of, _: {"of": of, "skipped": "made up"})
    monkeypatch.setattr(checks, "sanitizer", watched)
    monkeypatch.setattr(timing, "Gpu", Clockless)
    monkeypatch.setattr(speed, "large_copy", lambda _: {"rate": 1e12})
    monkeypatch.setattr(contestants, "copies", lambda _: [lambda: None])
    files = ["--results", str(results), "--page", str(page), "--minutes", "0.05"]
    assert gpu_check.main(files) == 1  # racecheck is not clean
    assert "conformance on torch | – | skipped: made up" in seen[0]
    assert "memcheck | yes" in seen[1]
    assert "racecheck | ✗ no" in page.read_text()
    assert "Its time ended" in seen[1]
    assert "Its time ended" not in page.read_text()
    assert page.read_text() == report.page(json.loads(results.read_text()), [goal])
    assert len(json.loads(results.read_text())["speed"]) == 1


def test_calls_take_turns_and_results_are_held() -> None:
    done: list[int] = []
    calls = [lambda k=k: done.append(k) or k for k in range(3)]
    assert list(timing._run(calls, 7)) == [1, 2, 0]
    assert done == [0, 1, 2, 0, 1, 2, 0]
    assert timing.sets_needed(2 * timing.CACHE) == 2
    assert timing.sets_needed(2**30) == 2
    assert timing.sets_needed(timing.CACHE // 2) == 5


def test_pytorch_is_put_where_the_plugin_says() -> None:
    pytest.importorskip("torch")
    command = checks.pytest_command("torch")
    assert command[command.index("--backend") + 1] == "torch"
    assert "benchmarks.gpu.torch_on_gpu" in command
    assert importlib.util.find_spec("benchmarks.gpu.torch_on_gpu") is not None
    assert og.backends()["torch"].capabilities.on_host
