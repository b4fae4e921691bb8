import importlib.metadata
import importlib.util
import platform
from typing import Any


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Keep what a reader needs to place the figures, and nothing that names the machine."""
    machine_info["versions"] = {"Python": platform.python_version()} | {
        name: importlib.metadata.version(name)
        for name in ("numpy", "torch")
        if importlib.util.find_spec(name) is not None
    }
    machine_info.pop("node", None)


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    output_json.pop("commit_info", None)
    for one in output_json["benchmarks"]:
        one["stats"].pop("data", None)  # every single round: 11 MB
