"""Known defects of the libraries, which the suite expects to run into."""

from pathlib import Path
from typing import NamedTuple


class Defect(NamedTuple):
    """A test that a defect of a library makes fail."""

    backend: str
    test: str
    link: str


def defects_file() -> Path:
    """Return the file of the defects of the backends that opsgrad brings."""
    return Path(__file__).with_name("defects.txt")


def read_defects(file: Path) -> list[Defect]:
    """Return the defects in a file, or raise if a line has no link."""
    defects = []
    for line in file.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        words = line.split()
        if len(words) != 3 or not words[2].startswith("https://"):
            raise ValueError(f"{file.name}: expected 'backend test link', got {line!r}")
        defects.append(Defect(*words))
    return defects
