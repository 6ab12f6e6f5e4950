"""Publishing: a source's bytes become packs, a table and, last of all, a statement.

Everything before the statement is content-addressed, so that a publish that broke off is continued
by saying it again. An image exists from the moment that its statement does.
"""

import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from flashboot.errors import (
    DigestMismatch,
    DocumentTooLarge,
    ObjectExists,
    ObjectMissing,
    PublishFailed,
    UsageError,
)
from flashboot.image import codec, envelope, statement
from flashboot.image import table as tables
from flashboot.image.statement import ARCHITECTURES, Blob, RamOs, Statement
from flashboot.image.table import ChunkTable, Pack
from flashboot.publish import bases, boot, ramos
from flashboot.publish.chunks import Prepared, prepare
from flashboot.publish.packs import PACK_TARGET, Counts, Packer, Place
from flashboot.publish.repair import Mender
from flashboot.publish.sender import PackUploads, Sender, require_length
from flashboot.publish.source import Source, opened, require_size
from flashboot.publish.verify import damaged
from flashboot.store import catalog
from flashboot.store.base import Store

_ASKERS = 8  # requests that only ask, at once

# Called with bytes of the source done and in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """What the source's bytes do not say. Times are seconds since 1970, 0 for never.

    `boot_modes` and `architecture` of None are found: from the image's head, and this machine's.
    `base` names the images whose chunks are not stored again: None for the newest, () for none.
    `ramos` is the directory of a RAM OS to pin. `live` accepts a device mounted for writing.
    A pack is closed by the chunk that brings it to `pack_target` bytes.
    `dry_run` reads, packs and asks the store, but writes nothing there. `repair` also reads all
    that the store has of the image, and sends again what is wrong or missing.
    """

    boot_modes: tuple[str, ...] | None = None
    architecture: str | None = None
    sequence: int = 0
    expires: int = 0
    source_ami: str = ""
    source_snapshot: str = ""
    base: tuple[str, ...] | None = None
    ramos: Path | None = None
    level: int = codec.LEVEL
    pack_target: int = PACK_TARGET
    live: bool = False
    dry_run: bool = False
    repair: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishResult:
    """What came of it. `already_published`: the store had this very image, nothing was sent but
    what a repair found damaged. `repaired`: the keys of objects that were wrong, or missing of a
    published image.

    `consistent` is False where the source was written to while it was read. `objects_found` were
    there from a publish that broke off, or from another image.
    """

    statement: Statement
    table: ChunkTable
    already_published: bool
    consistent: bool
    counts: Counts
    objects_sent: int
    bytes_sent: int
    objects_found: int
    seconds: float
    warnings: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()


def publish(
    source: "str | os.PathLike[str] | Source",
    store: Store,
    *,
    name: str,
    options: PublishOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> PublishResult:
    """Publish `source` as image `name`.

    Raises PublishFailed (also where the source changed meanwhile), ObjectExists where the name
    stands for another image, MalformedDocument for what no image may be called or have,
    DeviceBusy, DeviceFailed, and what the store raises; PublishFailed too where a repair cannot
    make again what is damaged. Saying it again continues it.
    """
    statement.check_name(name)
    wish = options or PublishOptions()
    opening: AbstractContextManager[Source] = (
        nullcontext(source) if isinstance(source, Source) else opened(source, live=wish.live)
    )
    with opening as found:
        require_size(found.device.path, found.device.size)
        work = _Work(found, store, name, wish, progress)
        if store.size(catalog.PREFIX + name) is None:
            return work.publish()
        return work.compare()


@dataclass(slots=True)
class _Work:
    """One publish."""

    source: Source
    store: Store
    name: str
    options: PublishOptions
    progress: Progress
    start: float = field(default_factory=time.monotonic)

    def publish(self) -> PublishResult:
        """A name that is not taken yet."""
        options = self.options
        built = ramos.read(options.ramos) if options.ramos is not None else None
        about = self._about(built.ramos if built else None)
        known, warnings = self._known()
        broken: tuple[Pack, ...] = ()
        if options.repair:
            broken = damaged(self.store, dict.fromkeys(place.pack for place in known.values()))
            known = {digest: place for digest, place in known.items() if place.pack not in broken}
        sender = self._sender()
        packer = self._pack(known, sender.send)
        self._require_packs(packer.reused())
        if built is not None:
            built.send(sender)
        table = packer.table()
        stored = tables.dump(table)
        result = ours = _with_table(about, table, stored, created=int(time.time()))
        sealed = envelope.seal(statement.dump(ours))
        self.source.require_unchanged()
        sender.send(result.table_key, stored)
        if options.dry_run or self.store.put(result.key, sealed):
            sender.count_sent(result.key, len(sealed))
        else:
            # Somebody published this name meanwhile, or it was us and the answer was lost.
            result, _ = catalog.fetch_statement(self.store, self.name)
            self._require_same(result, ours)
        warnings += tuple(
            f"{pack.key} of an earlier image is damaged and was not used: "
            "publish that image again with --repair"
            for pack in broken
            if pack.key not in sender.replaced
        )
        return self._result(
            result,
            table,
            packer.counts,
            sender=sender,
            warnings=warnings,
            repaired=sender.replaced,
        )

    def compare(self) -> PublishResult:
        """A name that is taken: fine if it is the same image. Only a repair sends anything."""
        options = self.options
        there, _ = catalog.fetch_statement(self.store, self.name)
        built = ramos.read(options.ramos) if options.ramos is not None else None
        about = self._about(built.ramos if built else None)
        self._require_same(there, replace(about, digest=there.digest, table=there.table))
        stored = self._stored_table(there, about)
        table = catalog.open_table(there, stored)
        if not options.repair:
            self._require_packs(table.packs)
        counts, seen = Counts(), set[bytes]()
        with closing(self._chunks(held=lambda _: True)) as chunks:
            for chunk in chunks:
                if table.chunks[chunk.index].digest != chunk.digest:
                    at = chunk.index * tables.CHUNK_SIZE
                    raise self._other(f"its bytes differ in the chunk at {at}")
                _count(counts, chunk, seen)
        self.source.require_unchanged()
        sender = self._sender()
        if options.repair:
            sender.send(there.table_key, stored)
            if built is not None:
                built.send(sender)
            self._mend(table, sender)
        return self._result(there, table, counts, sender=sender, repaired=sender.sent, already=True)

    def _sender(self) -> Sender:
        return Sender(self.store, dry_run=self.options.dry_run, repair=self.options.repair)

    def _stored_table(self, there: Statement, about: Statement) -> bytes:
        """The table of a published image, by a repair also where the store has it no more."""
        try:
            return catalog.fetch_blob(self.store, there.table_key, there.table, what="chunk table")
        except (DigestMismatch, DocumentTooLarge, ObjectMissing):
            if not self.options.repair:
                raise
        known, _ = self._known(before=there)
        table = self._pack(known, lambda key, data: None).table()
        stored = tables.dump(table)
        again = _with_table(about, table, stored, created=there.created)
        self._require_same(there, again)
        if again.table != there.table:
            raise PublishFailed(
                self.name,
                "its chunk table is damaged, and this command makes another one",
                hint="say --base or --no-base as at first, or publish under another name",
            )
        return stored

    def _mend(self, table: ChunkTable, sender: Sender) -> None:
        """Send again the packs of a published image that are damaged. Raises PublishFailed."""
        broken = damaged(self.store, table.packs)
        if not broken:
            return
        mender = Mender(table, broken, sender)
        with closing(self._chunks(held=lambda digest: not mender.needs(digest))) as chunks:
            for chunk in chunks:
                mender.add(chunk)
        if mender.unmended:
            names = " and ".join(pack.key for pack in mender.unmended)
            raise PublishFailed(
                self.name,
                f"damaged, {names} cannot be made again from this source alone",
                hint="first do so with the images that it shares chunks with; "
                "else publish with --repair under another name",
            )

    def _about(self, pinned: RamOs | None) -> Statement:
        """The statement but for what only the bytes can say. Raises MalformedDocument."""
        options, device = self.options, self.source.device
        layout = boot.read_layout(device)
        modes = layout.boot_modes if options.boot_modes is None else options.boot_modes
        about = Statement(
            name=self.name,
            image_size=device.size,
            digest=bytes(32),
            table=Blob(bytes(32), 1),
            architecture=options.architecture or this_architecture(),
            boot_modes=tuple(sorted(set(modes))),
            sector_size=layout.sector_size,
            created=0,
            sequence=options.sequence,
            expires=options.expires,
            source_ami=options.source_ami,
            source_snapshot=options.source_snapshot,
            ramos=pinned,
        )
        # Nothing may be published that no reader accepts; better to learn it before the work.
        return statement.load(statement.dump(about))

    def _known(
        self, *, before: Statement | None = None
    ) -> tuple[dict[bytes, Place], tuple[str, ...]]:
        """Where earlier images have their chunks; earlier than `before`."""
        named = self.options.base
        unreadable: list[str] = []
        if named is None:
            names, unreadable = bases.newest(self.store, before=before)
        else:
            names = list(named)
        known, broken = bases.known_places(self.store, names, strict=named is not None)
        return known, (*unreadable, *broken)

    def _pack(self, known: dict[bytes, Place], send: Callable[[str, bytes], None]) -> Packer:
        """Read the source, and send the packs of what is not `known`."""
        packer = Packer(known, target=self.options.pack_target)
        with (
            PackUploads(send, done=packer.closed) as uploads,
            closing(self._chunks(held=packer.holds)) as chunks,
        ):
            for chunk in chunks:
                if (full := packer.add(chunk)) is not None:
                    uploads.start(full)
            if (last := packer.finish()) is not None:
                uploads.start(last)
            uploads.wait()
        return packer

    def _chunks(self, *, held: Callable[[bytes], bool]) -> Generator[Prepared]:
        """The source's chunks, with progress."""
        device = self.source.device
        done = 0
        with closing(prepare(device, level=self.options.level, held=held)) as chunks:
            for chunk in chunks:
                yield chunk
                done += chunk.length
                self.progress(done, device.size)

    def _require_packs(self, packs: tuple[Pack, ...]) -> None:
        """Raise StoreError unless these packs are in the store, with their lengths."""
        with ThreadPoolExecutor(_ASKERS, thread_name_prefix="ask") as executor:
            sizes = executor.map(self.store.size, (pack.key for pack in packs))
            for pack, found in zip(packs, sizes, strict=True):
                require_length(self.store, pack.key, found=found, wanted=pack.length)

    def _require_same(self, there: Statement, wanted: Statement) -> None:
        """Raise ObjectExists unless both say the same of the same bytes."""
        differing = [
            f"{what} {_word(theirs)}, not {_word(ours)}"
            for what, theirs, ours in (
                ("its size is", there.image_size, wanted.image_size),
                ("its digest is", there.digest.hex(), wanted.digest.hex()),
                ("its architecture is", there.architecture, wanted.architecture),
                ("its boot modes are", there.boot_modes, wanted.boot_modes),
                ("its sector size is", there.sector_size, wanted.sector_size),
                ("its sequence is", there.sequence, wanted.sequence),
                ("it expires", there.expires, wanted.expires),
                ("its AMI is", there.source_ami, wanted.source_ami),
                ("its snapshot is", there.source_snapshot, wanted.source_snapshot),
                ("its RAM OS is", _ramos_word(there.ramos), _ramos_word(wanted.ramos)),
            )
            if theirs != ours
        ]
        if differing:
            raise self._other("; ".join(differing))

    def _other(self, difference: str) -> ObjectExists:
        return ObjectExists(
            self.store.url,
            catalog.PREFIX + self.name,
            hint=f"{difference}; names are immutable, choose another one",
        )

    def _result(
        self,
        about: Statement,
        table: ChunkTable,
        counts: Counts,
        *,
        sender: Sender,
        repaired: Iterable[str],
        warnings: tuple[str, ...] = (),
        already: bool = False,
    ) -> PublishResult:
        return PublishResult(
            statement=about,
            table=table,
            already_published=already,
            consistent=self.source.consistent,
            counts=counts,
            objects_sent=len(sender.sent),
            bytes_sent=sender.bytes_sent,
            objects_found=sender.objects_found,
            seconds=time.monotonic() - self.start,
            warnings=warnings,
            repaired=tuple(sorted(repaired)),
        )


def this_architecture() -> str:
    """The architecture of this machine, as statements call it. Raises UsageError for others."""
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise UsageError(f"this machine is {machine}", hint="say --arch x86_64 or --arch aarch64")
    return machine


def _with_table(about: Statement, table: ChunkTable, stored: bytes, *, created: int) -> Statement:
    blob = Blob(hashlib.sha256(stored).digest(), len(stored))
    return replace(about, digest=table.digest, table=blob, created=created)


def _count(counts: Counts, chunk: Prepared, seen: set[bytes]) -> None:
    if chunk.zero:
        counts.zero += 1
    elif chunk.digest in seen:
        counts.repeated += 1
    else:
        seen.add(chunk.digest)
        counts.known += 1


def _word(value: object) -> str:
    if isinstance(value, tuple):
        return " and ".join(map(str, value)) or "none"
    return str(value) or "none"


def _ramos_word(pinned: RamOs | None) -> str:
    return pinned.prefix if pinned else ""
