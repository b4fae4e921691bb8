"""Bad input is refused, by op and argument, before any work; unseen labels give NaN."""

import pytest

from opsgrad.conformance.bad_input import (
    FAMILIES,
    Case,
    check_refused,
    check_unseen_labels,
    possible,
)
from opsgrad.conformance.row import LABELS, Row
from opsgrad.conformance.table import TABLE
from opsgrad.conformance.target import Target

LEAST_KINDS = 20
"""The fewest kinds of bad input to try on each op."""
LEAST_CASES = 400
"""The fewest bad calls to make in all."""

REFUSED = [
    pytest.param(row, family, id=f"{row.name}-{family.replace(' ', '-')}")
    for row in TABLE.values()
    for family in FAMILIES
    if family != "labels" and row.bad_input(family)
]


def cases_on(target: Target, row: Row, family: str | None = None) -> list[Case]:
    """Return the bad calls of a row's op that can be made on a target."""
    cases = row.bad_input(family, target.dtypes[0])
    return [case for case in cases if possible(case, target.capabilities)]


@pytest.mark.parametrize(("row", "family"), REFUSED)
def test_bad_input_is_refused(row: Row, family: str, target: Target) -> None:
    """The error is of the right type, names op and argument, and comes before any work."""
    check_refused(row, cases_on(target, row, family), target)


@pytest.mark.parametrize(
    "row", [row for row in TABLE.values() if LABELS in row.arguments], ids=lambda row: row.name
)
def test_labels_of_no_class(row: Row, target: Target) -> None:
    """They are refused where labels can be looked at, and give NaN in their rows elsewhere."""
    cases = cases_on(target, row, "labels")
    if target.sees_labels:
        check_refused(row, cases, target)
        return
    for case in cases:
        check_unseen_labels(row, case, target)


def test_enough_kinds_are_tried(target: Target) -> None:
    """Every op is tried with many kinds of bad input, whatever the library can do."""
    cases = {name: cases_on(target, row) for name, row in TABLE.items()}
    for name, own in cases.items():
        assert len({case.kind for case in own}) >= LEAST_KINDS, name
    assert sum(map(len, cases.values())) >= LEAST_CASES
