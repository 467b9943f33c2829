"""The first number that is enough."""

import pytest

from fxprune.linalg.first_enough import first_enough


@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 5, 100, 1023, 1024, 1025])
def test_it_is_the_first_and_few_are_tried(wanted: int) -> None:
    tried = list[int]()

    def enough(number: int) -> bool:
        tried.append(number)
        return number >= wanted

    assert first_enough(enough) == wanted
    assert len(tried) <= 2 * wanted.bit_length() + 1
