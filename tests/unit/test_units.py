"""Sizes as people write and read them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot.units import GIB, KIB, MIB, format_rate, format_size, parse_size, round_up


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("512", 512),
        ("10B", 10),
        ("1k", KIB),
        ("512M", 512 * MIB),
        (" 8GiB ", 8 * GIB),
        ("8 gib", 8 * GIB),
        ("2TB", 2048 * GIB),
    ],
)
def test_parses_what_people_write(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        "M",
        "-1",
        "1.5G",
        "1e3",
        "0x10",
        "10iB",
        "5 X",
        "5MM",
        "1" * 16,
        "5\N{KELVIN SIGN}",
        "\N{ARABIC-INDIC DIGIT THREE}",
        "5M\0",
    ],
)
def test_refuses_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_size(text) >= 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (640 * MIB, "640.0 MiB"),
        (MIB - 1, "1.0 MiB"),
        (5000 * 1024 * GIB, "5000.0 TiB"),
        (-5, "-5 B"),
    ],
)
def test_formats_for_people(count: int, text: str) -> None:
    assert format_size(count) == text


@given(st.integers(0, 2**50 - 1))
def test_a_shown_size_is_below_1024_and_near_the_truth(count: int) -> None:
    number, unit = format_size(count).split()
    assert float(number) < 1024 or unit == "TiB"
    power = ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert abs(float(number) * 1024**power - count) <= 0.051 * 1024**power


def test_formats_a_rate() -> None:
    assert format_rate(250 * MIB, 2.0) == "125.0 MiB/s"
    assert format_rate(MIB, 0.0) == "-"


@given(st.integers(0, 2**60), st.integers(1, 2**30))
def test_rounds_up_to_the_next_multiple(value: int, unit: int) -> None:
    rounded = round_up(value, unit)
    assert rounded % unit == 0
    assert value <= rounded < value + unit
