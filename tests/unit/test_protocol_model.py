"""The crash model: the steps of a flash on a small disk, with the power cut everywhere.

A disk is a tuple of sectors. What was written since the last flush may reach the medium or not,
sector by sector and in any order, so every subset of it is tried after every write and flush:
writes lost, kept, torn and overtaken are all among them. The disk is small, the search is complete.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import assert_never

import pytest

from flashboot.image import protocol
from flashboot.image.extents import Extent
from flashboot.image.protocol import (
    ClearHead,
    CommitHead,
    EraseTail,
    Flush,
    ReadBack,
    Step,
    Tail,
    WriteBody,
)

SECTOR = 512
IMAGE = 5  # sectors
DEVICE = 9  # sectors
CHUNK = 2  # sectors that one write of the body has
ZERO = 0

# What a sector holds is a number; the same number means the same bytes.
Disk = tuple[int, ...]
OLD: Disk = tuple(range(100, 100 + DEVICE))


class Mistake(Exception):
    """The model found that a step did not do what the next one builds on."""


@dataclass(slots=True)
class Model:
    """A disk under a flash. `states` are all disks that a power cut at any time so far leaves.

    `barriers` tells whether ClearHead and CommitHead flush, as they say they do.
    """

    medium: Disk
    new: Disk
    barriers: bool = True
    unflushed: list[tuple[int, int]] = field(default_factory=list)
    states: set[Disk] = field(default_factory=set)

    @property
    def seen(self) -> Disk:
        """What a read gives: the medium under all writes."""
        return overlaid(self.medium, self.unflushed)

    def write(self, offset: int, values: Iterable[int]) -> None:
        self.unflushed += [(offset + at, value) for at, value in enumerate(values)]
        self.cut()

    def flush(self) -> None:
        self.medium = self.seen
        self.unflushed.clear()
        self.cut()

    def cut(self) -> None:
        """Note every disk that a power cut now may leave."""
        for survivors in subsets(self.unflushed):
            self.states.add(overlaid(self.medium, survivors))

    def run(self, steps: Iterable[Step]) -> None:
        self.cut()
        for step in steps:
            match step:
                case ClearHead():
                    self.head(ZERO)
                case WriteBody(protected):
                    self.body(protected)
                case EraseTail(extents):
                    for extent in extents:
                        self.write(extent.offset // SECTOR, [ZERO] * (extent.length // SECTOR))
                case Flush():
                    self.flush()
                case ReadBack(withheld, zeroes):
                    self.read_back(withheld, zeroes)
                case CommitHead():
                    self.head(self.new[0])
                case _:
                    assert_never(step)

    def head(self, value: int) -> None:
        self.write(0, [value])
        if self.barriers:
            self.flush()

    def body(self, protected: tuple[Extent, ...]) -> None:
        for first in range(0, IMAGE, CHUNK):
            last = min(first + CHUNK, IMAGE)
            if self.seen[first:last] == self.new[first:last]:
                continue
            whole = Extent(first * SECTOR, (last - first) * SECTOR)
            for extent in protocol.writable(whole, protected):
                self.write(extent.offset // SECTOR, self.new[sectors(extent)])

    def read_back(self, withheld: tuple[Extent, ...], zeroes: tuple[Extent, ...]) -> None:
        if self.unflushed:
            raise Mistake("what is read back is not on the medium yet")
        for extent in protocol.writable(Extent(0, IMAGE * SECTOR), withheld):
            if self.seen[sectors(extent)] != self.new[sectors(extent)]:
                raise Mistake("the body is not NEW")
        for extent in zeroes:
            if any(self.seen[sectors(extent)]):
                raise Mistake("the tail is not erased")


def sectors(extent: Extent) -> slice:
    """The sectors of `extent`."""
    return slice(extent.offset // SECTOR, extent.end // SECTOR)


def overlaid(disk: Disk, writes: Iterable[tuple[int, int]]) -> Disk:
    result = list(disk)
    for at, value in writes:
        result[at] = value
    return tuple(result)


def subsets(writes: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], ...]]:
    return itertools.chain.from_iterable(
        itertools.combinations(writes, count) for count in range(len(writes) + 1)
    )


def steps_of(tail: Tail) -> tuple[Step, ...]:
    return protocol.unprotected(
        image_size=IMAGE * SECTOR, device_size=DEVICE * SECTOR, sector_size=SECTOR, tail=tail
    )


def erased(tail: Tail) -> Disk:
    """The sectors beyond the image once NEW boots."""
    kept = OLD[IMAGE + 1 : DEVICE - 1]
    return (ZERO, *kept, ZERO) if tail is Tail.SIGNATURES else (ZERO,) * (DEVICE - IMAGE)


def wrong(states: Iterable[Disk], start: Disk, finished: Disk) -> list[Disk]:
    """The disks that boot, and yet are neither as they were nor finished."""
    return [disk for disk in states if disk[0] != ZERO and disk not in (start, finished)]


def images() -> Iterator[Disk]:
    """NEW: each sector of its body is as in OLD, zero, or different; its head is OLD's or not."""
    choices = [(OLD[at], ZERO, 200 + at) for at in range(1, IMAGE)]
    for head in (200, OLD[0]):
        for body in itertools.product(*choices):
            yield (head, *body)


@pytest.fixture(autouse=True)
def small_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sector instead of a MiB at either end of the tail, so that two between them are kept."""
    monkeypatch.setattr(protocol, "SIGNATURE_SPAN", SECTOR)


@pytest.mark.parametrize("tail", Tail)
def test_a_power_cut_never_leaves_a_mixture_that_boots(tail: Tail) -> None:
    for image in images():
        model = Model(OLD, image)
        model.run(steps_of(tail))
        finished = image + erased(tail)
        assert model.medium == finished
        assert not wrong(model.states, OLD, finished)
        assert {disk[0] for disk in model.states} == {OLD[0], ZERO, image[0]}
        kept = slice(IMAGE + 1, DEVICE - 1)
        if tail is Tail.SIGNATURES:
            assert {disk[kept] for disk in model.states} == {OLD[kept]}


@pytest.mark.parametrize("tail", Tail)
def test_starting_again_from_any_cut_ends_in_new_and_never_in_a_mixture(tail: Tail) -> None:
    image = (200, 201, OLD[2], ZERO, 204)
    finished = image + erased(tail)
    first = Model(OLD, image)
    first.run(steps_of(tail))
    for start in first.states:
        again = Model(start, image)
        again.run(steps_of(tail))
        assert again.medium == finished
        assert not wrong(again.states, start, finished)


def test_the_model_finds_that_the_first_write_must_be_flushed() -> None:
    image = (200, 201, 202, 203, 204)
    model = Model(OLD, image, barriers=False)
    model.run(steps_of(Tail.ZERO)[:-1])
    mixtures = wrong(model.states, OLD, image + erased(Tail.ZERO))
    assert any(disk[0] == OLD[0] and disk[1] == 201 for disk in mixtures)


@pytest.mark.parametrize("left_out", [ClearHead, EraseTail, WriteBody, Flush])
def test_the_model_finds_a_step_that_is_left_out(left_out: type[Step]) -> None:
    image = (200, 201, 202, 203, 204)
    model = Model(OLD, image)
    steps = [step for step in steps_of(Tail.ZERO) if not isinstance(step, left_out)]
    if left_out is ClearHead:
        model.run(steps)
        assert wrong(model.states, OLD, image + erased(Tail.ZERO))
    else:
        with pytest.raises(Mistake):
            model.run(steps)


def test_the_model_finds_a_commit_before_the_flush() -> None:
    image = (200, 201, 202, 203, 204)
    clear, body, erase, flush, read_back, commit = steps_of(Tail.ZERO)
    model = Model(OLD, image, barriers=False)
    model.run([clear, flush, body, erase, commit, flush, read_back])
    mixtures = wrong(model.states, OLD, image + erased(Tail.ZERO))
    assert any(disk[0] == image[0] for disk in mixtures)
