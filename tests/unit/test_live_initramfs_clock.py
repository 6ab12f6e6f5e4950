"""The RAM OS's clock: an answer is believed only if it is one to our question."""

import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "live-initramfs"))

import clock

_1900 = 2_208_988_800
_NONCE = st.integers(1, 2**64 - 1)


def _answer(
    nonce: int, seconds: float, *, flags: int = 0x24, stratum: int = 2, length: int = 48
) -> bytes:
    since = seconds + _1900
    when = (int(since) & 0xFFFFFFFF, int(since % 1 * 2**32))
    question = (nonce >> 32, nonce & 0xFFFFFFFF)
    return struct.pack("!BBbb11I", flags, stratum, 0, 0, *[0] * 5, *question, *when, *when)[:length]


@given(_NONCE, st.floats(0, 4_000_000_000))
def test_an_answer_is_the_server_s_time(nonce: int, seconds: float) -> None:
    # From 1970 into the second era, which begins in 2036.
    assert clock.server_time(_answer(nonce, seconds), nonce) == pytest.approx(seconds, abs=1e-5)


def test_the_question_is_a_client_s() -> None:
    packet = clock.request(0x0102030405060708)
    assert len(packet) == 48
    assert packet[0] == 0x23
    assert packet[40:] == bytes(range(1, 9))


@given(st.binary(max_size=80))
def test_noise_is_no_time(noise: bytes) -> None:
    with pytest.raises(ValueError, match=r"time|question|short"):
        clock.server_time(noise, 77)


@pytest.mark.parametrize(
    "answer",
    [
        _answer(1, 1e9, length=47),
        _answer(2, 1e9),  # to somebody else
        _answer(1, 1e9, flags=0x23),  # a client, not a server
        _answer(1, 1e9, flags=0xE4),  # a server whose clock is not set
        _answer(1, 1e9, stratum=0),  # "go away" (RFC 4330, section 8)
        _answer(1, 1e9, stratum=16),
        _answer(1, -_1900),
    ],
)
def test_what_is_no_answer_is_refused(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r"time|question|short"):
        clock.server_time(answer, 1)
