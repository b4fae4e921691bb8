"""The command-line options of opsgrad's conformance suite.

A module of its own, which imports nothing: pytest loads it in every run of an environment that has
opsgrad. The options exist only where the suite is named on the command line.
"""

from typing import Any


def pytest_load_initial_conftests(early_config: Any, parser: Any, args: list[str]) -> None:
    """Add the options, if the suite is what is to be run."""
    if not any("opsgrad.conformance" in arg or "opsgrad/conformance" in arg for arg in args):
        return
    group = parser.getgroup("opsgrad", "opsgrad's conformance suite")
    group.addoption(
        "--backend", action="append", metavar="NAME", help="run on this backend; may be repeated"
    )
    group.addoption(
        "--namespace",
        action="append",
        metavar="MODULE",
        help="run on the array namespace of this module, such as array_api_strict",
    )
    group.addoption("--thorough", action="store_true", help="try 1,000 examples a property")
