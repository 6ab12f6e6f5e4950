"""Stored bytes: one frame, of exactly the length that was promised."""

import contextlib
import os
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from flashboot.errors import FlashbootError, MalformedDocument
from flashboot.image import codec
from flashboot.image.table import CHUNK_SIZE, MAX_STORED

PLAIN = b"flash" * 200
FRAME = codec.compress(PLAIN)
MAGIC = bytes.fromhex("28b52ffd")


def raw_frame(content: bytes, claimed: int) -> bytes:
    """A frame that claims `claimed` bytes (8 bytes wide) and holds one raw block of `content`."""
    block = (len(content) << 3 | 1).to_bytes(3, "little")
    return MAGIC + b"\xe0" + struct.pack("<Q", claimed) + block + content


def bomb(claimed: int) -> bytes:
    """A frame of 3 KB that unpacks to 100 MB of zeroes, whatever it claims."""
    block = (128 * 1024 << 3 | 2).to_bytes(3, "little") + b"\0"
    return MAGIC + b"\xe0" + struct.pack("<Q", claimed) + 800 * block + b"\1\0\0"


@given(st.binary(min_size=1, max_size=3000))
def test_what_is_packed_is_unpacked(plain: bytes) -> None:
    stored = codec.compress(plain)
    assert codec.decompress(stored, len(plain)) == plain
    assert codec.decompress(memoryview(stored), len(plain)) == plain
    assert codec.plain_length(stored, cap=3000, what="frame") == len(plain)


@given(st.binary(max_size=500), st.binary(min_size=1, max_size=500))
def test_the_same_bytes_always_give_the_same_frame(other: bytes, plain: bytes) -> None:
    first = codec.compress(plain)
    codec.compress(other)
    assert codec.compress(memoryview(plain)) == first


def test_random_bytes_stay_within_what_a_table_allows() -> None:
    assert len(codec.compress(os.urandom(CHUNK_SIZE))) <= MAX_STORED


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        (b"", "not a zstd frame"),
        (b"x", "not a zstd frame"),
        (PLAIN, "not a zstd frame"),
        (FRAME[:-1], "not a zstd frame"),
        (FRAME[:6], "not a zstd frame"),
        (FRAME + b"x", "not a zstd frame"),
        (FRAME + FRAME, "not a zstd frame"),
        (bytes.fromhex("502a4d18") + bytes(4) + FRAME, "does not say that it holds 1000 bytes"),
        (codec.compress(PLAIN[:-1]), "does not say that it holds 1000 bytes"),
        (codec.compress(PLAIN + b"x"), "does not say that it holds 1000 bytes"),
        (bomb(800 * 128 * 1024), "does not say that it holds 1000 bytes"),
        (bomb(1000), "not a zstd frame"),
        (raw_frame(b"", 2**62), "does not say that it holds 1000 bytes"),
        (raw_frame(b"", 2**64 - 1), "does not say that it holds 1000 bytes"),
        (raw_frame(bytes(1001), 1000), "not a zstd frame"),
        (raw_frame(bytes(999), 1000), "not a zstd frame"),
        (
            zstandard.ZstdCompressor(write_content_size=False).compress(PLAIN),
            "does not say that it holds 1000 bytes",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_but_one_frame_of_that_length_is_refused(stored: bytes, problem: str) -> None:
    with pytest.raises(MalformedDocument, match=problem) as caught:
        codec.decompress(stored, len(PLAIN), what="parcel")
    assert str(caught.value).startswith("The parcel is malformed")


def test_a_flipped_bit_gives_other_bytes_or_a_refusal_but_never_another_length() -> None:
    for bit in range(len(FRAME) * 8):
        broken = bytearray(FRAME)
        broken[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(MalformedDocument):
            assert len(codec.decompress(bytes(broken), len(PLAIN))) == len(PLAIN)


@pytest.mark.parametrize("length", [-1, 0, 999, 1001])
def test_another_length_than_the_frames_is_refused(length: int) -> None:
    with pytest.raises(MalformedDocument):
        codec.decompress(FRAME, length)


@pytest.mark.parametrize(
    "stored",
    [
        raw_frame(b"", 1001),
        raw_frame(b"", 2**63),
        raw_frame(b"", 2**64 - 1),
        zstandard.ZstdCompressor(write_content_size=False).compress(PLAIN),
        b"",
        PLAIN,
    ],
)
def test_a_length_above_the_cap_or_unsaid_is_refused(stored: bytes) -> None:
    with pytest.raises(MalformedDocument, match="The frame is malformed"):
        codec.plain_length(stored, cap=1000, what="frame")


@given(st.binary(max_size=60), st.integers(0, 1000))
def test_noise_is_refused_with_a_sentence(noise: bytes, length: int) -> None:
    for data in (noise, MAGIC + noise):
        with contextlib.suppress(FlashbootError):
            codec.decompress(data, length)
        with contextlib.suppress(FlashbootError):
            codec.plain_length(data, cap=1000, what="noise")
