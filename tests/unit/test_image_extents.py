"""Extents against a bitmap: a set of byte numbers is the model."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot.image.extents import Extent, merge, subtract, total
from tests import strategies

LIMIT = 40
LISTS = st.lists(strategies.extents(LIMIT), max_size=6)


def bitmap(extents: list[Extent] | tuple[Extent, ...]) -> set[int]:
    return {byte for extent in extents for byte in range(extent.offset, extent.end)}


def is_canonical(extents: tuple[Extent, ...]) -> bool:
    """In order, and with a gap between each and the next."""
    return all(one.end < two.offset for one, two in pairwise(extents))


@given(LISTS)
def test_merge_keeps_the_bytes_in_the_fewest_extents(extents: list[Extent]) -> None:
    merged = merge(extents)
    assert bitmap(merged) == bitmap(extents)
    assert is_canonical(merged)
    assert merge(merged) == merged


@given(LISTS, LISTS)
def test_subtract_is_the_difference_of_bitmaps(whole: list[Extent], holes: list[Extent]) -> None:
    left = subtract(whole, holes)
    assert bitmap(left) == bitmap(whole) - bitmap(holes)
    assert is_canonical(left)


@given(LISTS)
def test_total_counts_each_byte_once(extents: list[Extent]) -> None:
    assert total(extents) == len(bitmap(extents))


@given(strategies.extents(LIMIT), strategies.extents(LIMIT))
def test_overlap_is_a_common_byte(one: Extent, two: Extent) -> None:
    assert one.overlaps(two) == bool(bitmap([one]) & bitmap([two]))
    assert one.overlaps(two) == two.overlaps(one)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 0), (0, -1)])
def test_what_is_no_run_of_bytes_is_refused(offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="not an extent"):
        Extent(offset, length)


def test_iterators_are_read_once() -> None:
    extents = (Extent(0, 4), Extent(4, 4))
    assert merge(iter(extents)) == (Extent(0, 8),)
    assert subtract(iter(extents), iter([Extent(2, 4)])) == (Extent(0, 2), Extent(6, 2))
