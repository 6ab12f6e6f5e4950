"""The steps of a flash, and the proof that a commit needs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot.errors import NotVerified, WrongDevice
from flashboot.image import protocol
from flashboot.image import table as tables
from flashboot.image.extents import Extent, total
from flashboot.image.protocol import (
    SIGNATURE_SPAN,
    ClearHead,
    CommitHead,
    EraseTail,
    Flush,
    ReadBack,
    Step,
    Tail,
    Verified,
    WriteBody,
)
from flashboot.image.table import CHUNK_SIZE, Chunk, ChunkTable, Location, Pack
from flashboot.units import GIB, MIB
from tests import strategies
from tests.strategies import sha256

SECTORS = st.sampled_from([512, 4096])


@st.composite
def flashes(draw: st.DrawFn) -> tuple[int, int, int, Tail]:
    """Image size, device size, sector size and tail of a flash that fits."""
    sector = draw(SECTORS)
    image = sector * draw(st.integers(1, 2**22))
    room = draw(st.integers(0, 2048 * 3) | st.integers(0, 2**22))
    return image, image + sector * room, sector, draw(st.sampled_from(Tail))


def steps_of(flash: tuple[int, int, int, Tail]) -> tuple[Step, ...]:
    image, device, sector, tail = flash
    return protocol.unprotected(image_size=image, device_size=device, sector_size=sector, tail=tail)


@given(flashes())
def test_the_order_of_the_steps(flash: tuple[int, int, int, Tail]) -> None:
    steps = steps_of(flash)
    kinds = [type(step) for step in steps]
    for kind in (ClearHead, WriteBody, Flush, ReadBack, CommitHead):
        assert kinds.count(kind) == 1
    assert kinds.count(EraseTail) <= 1
    assert kinds[0] is ClearHead
    assert kinds[-2:] == [ReadBack, CommitHead]
    writes = [at for at, kind in enumerate(kinds) if kind in (WriteBody, EraseTail)]
    assert max(writes) < kinds.index(Flush) < kinds.index(ReadBack)


@given(flashes())
def test_what_is_withheld_and_what_is_erased(flash: tuple[int, int, int, Tail]) -> None:
    image, device, sector, tail = flash
    beyond: tuple[Extent, ...] = ()
    for step in steps_of(flash):
        match step:
            case WriteBody(protected):
                assert protected == (Extent(0, sector),)
            case EraseTail(extents):
                beyond = extents
                assert extents
            case ReadBack(withheld, zeroes):
                assert withheld == (Extent(0, sector),)
                assert zeroes == beyond
            case ClearHead() | Flush() | CommitHead():
                pass
    for extent in beyond:
        assert image <= extent.offset < extent.end <= device
        assert extent.offset % sector == extent.length % sector == 0
    assert total(beyond) == sum(extent.length for extent in beyond)
    if tail is Tail.ZERO:
        assert total(beyond) == device - image
    else:
        assert total(beyond) == min(device - image, 2 * SIGNATURE_SPAN)
    if beyond:
        assert (beyond[0].offset, beyond[-1].end) == (image, device)
    else:
        assert device == image


def test_the_tail_of_a_large_device() -> None:
    assert protocol.tail_extents(2 * GIB, 8 * GIB, tail=Tail.SIGNATURES) == (
        Extent(2 * GIB, MIB),
        Extent(8 * GIB - MIB, MIB),
    )
    assert protocol.tail_extents(GIB, 8 * GIB, tail=Tail.ZERO) == (Extent(GIB, 7 * GIB),)
    assert protocol.tail_extents(GIB, GIB, tail=Tail.ZERO) == ()
    assert protocol.tail_extents(2 * GIB, GIB, tail=Tail.ZERO) == ()


def test_there_are_no_steps_for_a_device_that_is_too_small() -> None:
    with pytest.raises(WrongDevice, match="an image of 1024 bytes needs more than 512"):
        protocol.unprotected(image_size=1024, device_size=512, sector_size=512, tail=Tail.ZERO)


@given(strategies.extents(100), st.lists(strategies.extents(100), max_size=4).map(tuple))
def test_what_may_be_written_avoids_what_is_protected(
    whole: Extent, protected: tuple[Extent, ...]
) -> None:
    for extent in protocol.writable(whole, protected):
        assert whole.offset <= extent.offset < extent.end <= whole.end
        assert not any(extent.overlaps(other) for other in protected)


TABLE = ChunkTable(
    2 * CHUNK_SIZE,
    (Pack(sha256(b"pack"), 100),),
    (
        Chunk(sha256(b"first"), Location(0, 0, 100)),
        Chunk(tables.zero_digest(CHUNK_SIZE), None),
    ),
)
RIGHT = tuple(chunk.digest for chunk in TABLE.chunks)


class TestVerified:
    def test_it_is_made_for_the_right_digests_only(self) -> None:
        assert Verified(TABLE, RIGHT, bytes(512)).table is TABLE
        assert Verified(TABLE, RIGHT, bytes(4096)).head == bytes(4096)

    @pytest.mark.parametrize(
        ("observed", "problem"),
        [
            ((), "0 of 2 chunks were read back"),
            (RIGHT[:1], "1 of 2 chunks were read back"),
            ((*RIGHT, RIGHT[0]), "3 of 2 chunks were read back"),
            (RIGHT[::-1], "2 chunks differ, the first is 0"),
            ((RIGHT[0], bytes(32)), "1 chunks differ, the first is 1"),
            ((b"", RIGHT[1]), "1 chunks differ, the first is 0"),
            ((RIGHT[0][:-1], RIGHT[1]), "1 chunks differ, the first is 0"),
        ],
    )
    def test_it_cannot_be_made_with_a_wrong_or_missing_digest(
        self, observed: tuple[bytes, ...], problem: str
    ) -> None:
        with pytest.raises(NotVerified) as caught:
            Verified(TABLE, observed, bytes(512))
        assert str(caught.value) == f"the device does not hold the image: {problem}."

    @pytest.mark.parametrize("length", [0, 511, 513, 8192])
    def test_it_needs_a_head_of_one_sector(self, length: int) -> None:
        with pytest.raises(NotVerified, match="are no sector 0"):
            Verified(TABLE, RIGHT, bytes(length))

    @given(strategies.chunk_tables(), st.data())
    def test_any_single_wrong_chunk_is_found(self, table: ChunkTable, data: st.DataObject) -> None:
        observed = [chunk.digest for chunk in table.chunks]
        Verified(table, tuple(observed), bytes(512))
        wrong = data.draw(st.integers(0, len(observed) - 1))
        observed[wrong] = sha256(observed[wrong])
        assert protocol.mismatches(table, tuple(observed)) == (wrong,)
        with pytest.raises(NotVerified, match=f"the first is {wrong}"):
            Verified(table, tuple(observed), bytes(512))

    def test_it_cannot_be_changed_afterwards(self) -> None:
        proof = Verified(TABLE, RIGHT, bytes(512))
        with pytest.raises(AttributeError):
            proof.observed = ()  # type: ignore[misc]
