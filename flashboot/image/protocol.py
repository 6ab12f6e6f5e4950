"""The write protocol as pure steps: what is written to a root device, in which order, and when.

The flasher runs these steps and so does the crash model: there is one list. Without the island
(issue B) only the unprotected form exists: its first write clears sector 0, so that a power cut
before the commit leaves a disk that does not boot rather than a mixture of two systems.
"""

from dataclasses import dataclass
from enum import StrEnum

from flashboot.errors import NotVerified, WrongDevice
from flashboot.image.extents import Extent, subtract
from flashboot.image.table import ChunkTable
from flashboot.units import MIB

# A backup GPT takes the last 33 sectors and md's old superblocks the last 64 to 128 KiB
# (UEFI 2.10, 5.3.2; md(4)); LVM, filesystems and new md formats begin within the first MiB.
SIGNATURE_SPAN = 1 * MIB
HEAD_SIZES = (512, 4096)  # bytes of a sector 0


class Tail(StrEnum):
    """What happens to the bytes beyond the image."""

    SIGNATURES = "signatures"  # the first and the last MiB are zeroed, the rest kept
    ZERO = "zero"  # all of it is zeroed


@dataclass(frozen=True, slots=True)
class ClearHead:
    """Sector 0 becomes zeroes: nothing on this disk boots from here on. The point of no return.

    Flushed and read back within this step: if a body write could overtake it, a power cut would
    leave OLD's sector 0 over parts of NEW. The crash model shows that it would.
    """


@dataclass(frozen=True, slots=True)
class WriteBody:
    """Every chunk that differs is written, except for the bytes in `protected`."""

    protected: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class EraseTail:
    """These extents beyond the image become zeroes."""

    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class Flush:
    """All that was written so far is on the device when this returns."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Every byte of the image but those in `withheld`, and of `zeroes`, is read and compared."""

    withheld: tuple[Extent, ...]
    zeroes: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class CommitHead:
    """Sector 0 becomes the image's: the disk boots NEW. Needs a `Verified`.

    Flushed and read back within this step.
    """


Step = ClearHead | WriteBody | EraseTail | Flush | ReadBack | CommitHead


def tail_extents(image_size: int, device_size: int, *, tail: Tail) -> tuple[Extent, ...]:
    """The bytes beyond the image that are to become zeroes."""
    room = device_size - image_size
    if room <= 0:
        return ()
    if tail is Tail.ZERO or room <= 2 * SIGNATURE_SPAN:
        return (Extent(image_size, room),)
    return (
        Extent(image_size, SIGNATURE_SPAN),
        Extent(device_size - SIGNATURE_SPAN, SIGNATURE_SPAN),
    )


def writable(whole: Extent, protected: tuple[Extent, ...]) -> tuple[Extent, ...]:
    """The parts of `whole` that a body write may touch."""
    return subtract((whole,), protected)


def unprotected(
    *, image_size: int, device_size: int, sector_size: int, tail: Tail
) -> tuple[Step, ...]:
    """The steps without an island. Raises WrongDevice for a device that is too small."""
    if image_size > device_size:
        raise WrongDevice(f"an image of {image_size} bytes needs more than {device_size}")
    head = (Extent(0, sector_size),)
    beyond = tail_extents(image_size, device_size, tail=tail)
    erase: tuple[Step, ...] = (EraseTail(beyond),) if beyond else ()
    return (
        ClearHead(),
        WriteBody(head),
        *erase,
        Flush(),
        ReadBack(head, beyond),
        CommitHead(),
    )


@dataclass(frozen=True, slots=True)
class Verified:
    """The proof that a device holds an image, all but its withheld head: only a commit asks for it.

    `observed` are the SHA-256 of the image's chunks as read back from the device, with `head`
    put in front of the first. None can be made for a device that holds anything else
    (CVE-2021-20319 was a check whose result nobody needed).

    Raises NotVerified.
    """

    table: ChunkTable
    observed: tuple[bytes, ...]
    head: bytes

    def __post_init__(self) -> None:
        if len(self.head) not in HEAD_SIZES:
            raise NotVerified("the device", f"{len(self.head)} bytes are no sector 0")
        if len(self.observed) != len(self.table.chunks):
            problem = f"{len(self.observed)} of {len(self.table.chunks)} chunks were read back"
            raise NotVerified("the device", problem)
        wrong = mismatches(self.table, self.observed)
        if wrong:
            raise NotVerified("the device", f"{len(wrong)} chunks differ, the first is {wrong[0]}")


def mismatches(table: ChunkTable, observed: tuple[bytes, ...]) -> tuple[int, ...]:
    """The indices of the chunks whose observed digest is not the table's."""
    pairs = enumerate(zip(table.chunks, observed, strict=True))
    return tuple(index for index, (chunk, digest) in pairs if chunk.digest != digest)
