"""Refusals that the suite's table of bad input has no place for; the table itself."""

from collections import Counter

import pytest
from refusal import good, refused

import opsgrad as og
from opsgrad.conformance import TABLE, Row
from opsgrad.conformance.bad_input.case import arguments, parameters


def test_the_table_names_every_array_argument() -> None:
    for row in TABLE.values():
        assert row.arguments == tuple(one.name for one in arguments(row))


def test_the_table_names_every_parameter(row: Row) -> None:
    expected = {parameter for variant in row.variants for parameter in variant}
    expected |= {"axis"} if row.has_axis else set()
    expected |= {"keepdims"} if row.has_keepdims else set()
    expected |= {"reduction"} if row.has_reduction else set()
    assert {*parameters(row)} == expected
    assert {*row.refused} == expected - {"axis", "keepdims", "reduction", "kind"}


def test_no_two_cases_of_bad_input_have_one_name(row: Row) -> None:
    repeated = Counter(map(str, row.bad_input())).most_common(1)[0]
    assert repeated[1] == 1, repeated


@pytest.mark.parametrize("name", TABLE)
def test_a_jacobian_without_an_array_is_refused(name: str) -> None:
    op = TABLE[name].op
    refused(lambda: og.jacobian(op), TypeError, name, TABLE[name].arguments[0], op=op)


@pytest.mark.parametrize("name", TABLE)
def test_value_and_grad_without_arrays_does_not_blame_argnums(name: str) -> None:
    with pytest.raises(TypeError, match=name) as caught:
        og.value_and_grad(TABLE[name].op)()
    assert "argnums" not in str(caught.value)


@pytest.mark.parametrize("name", TABLE)
def test_a_long_value_is_not_repeated_whole(name: str) -> None:
    arrays = good(name)
    for value in ("a" * 100_000, {"weights": list(range(100_000))}):
        with pytest.raises(TypeError) as caught:
            TABLE[name].op(value, *arrays[1:])
        assert len(str(caught.value)) < 1000
