"""The pipeline: fetch, unpack and hash runs of chunks, all at the same time, and hand them on.

Fetching is decoupled from the processor's work, since a store answers slowly but in parallel
(anchors/performance.md, section 5). Memory is bounded by a byte budget, not by a count of items.
Nothing reaches a sink before its SHA-256 is the table's.
"""

import hashlib
import queue
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from flashboot.errors import ChunkMismatch, MalformedDocument
from flashboot.flasher.pool import ByteBudget, Crew, Shared, Stopped, processors
from flashboot.flasher.runs import RUN_BYTES, Run, runs_of
from flashboot.flasher.source import Source
from flashboot.image import codec
from flashboot.image.table import CHUNK_SIZE, ChunkTable
from flashboot.machine.buffers import AlignedBuffer

Item = TypeVar("Item")

FETCHERS = 8
TRIES = 3  # of one chunk whose bytes are wrong; the second try goes over another connection
_ZEROES = memoryview(bytes(RUN_BYTES))

# What a sink gets: the run, its stored bytes (none for zeroes) and its plain bytes in aligned
# memory, which are the sink's only until it returns.
Sink = Callable[[Run, bytes, memoryview], None]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """How runs of one image are brought; `budget` is bytes in flight."""

    name: str
    table: ChunkTable
    source: Source
    budget: int
    fetchers: int = FETCHERS

    def run(
        self, items: Iterator[Item], sink: Sink, *, runs: Callable[[Item], Iterable[Run]]
    ) -> None:
        """Bring every run of every item to `sink`, from several threads and in no order.

        `runs` says which runs an item has; it is asked by the threads that fetch, so a device
        can be compared there while others wait for the store.
        Raises ChunkMismatch, what the store raises, and what `runs` and the sink raise.
        """
        crew = Crew()
        workers = processors()
        # Every thread has a buffer of its own; what is left is for stored bytes under way.
        buffers = (workers + self.fetchers) * RUN_BYTES
        budget = ByteBudget(max(self.budget - buffers, RUN_BYTES))
        ready: queue.SimpleQueue[tuple[Run, bytes] | None] = queue.SimpleQueue()
        shared = Shared(items)
        left = [self.fetchers]

        def wake() -> None:
            budget.close()
            for _ in range(workers):
                ready.put(None)

        def fetch() -> None:
            for item in shared:
                for run in runs(item):
                    crew.check()
                    budget.acquire(run.stored)
                    ready.put((run, b"" if run.is_zero else self.source.get(run)))
            with shared.lock:
                left[0] -= 1
                last = left[0] == 0
            if last:
                for _ in range(workers):
                    ready.put(None)

        def process() -> None:
            buffer = AlignedBuffer(RUN_BYTES)
            try:
                while (item := ready.get()) is not None:
                    if crew.stop.is_set():
                        raise Stopped
                    run, stored = item
                    view = buffer.slice(0, run.extent(self.table).length)
                    self._unpack(run, stored, view)
                    sink(run, stored, view)
                    budget.release(run.stored)
            finally:
                buffer.close()

        crew.on_stop(wake)
        crew.start(process, name="process", count=workers)
        crew.start(fetch, name="fetch", count=self.fetchers)
        crew.join()

    def _unpack(self, run: Run, stored: bytes, view: memoryview) -> None:
        """Fill `view` with the verified plain bytes of `run`."""
        if run.is_zero:
            view[:] = _ZEROES[: len(view)]
            return
        for index in run.chunks:
            chunk = self.table.chunks[index]
            assert chunk.location is not None
            start = chunk.location.offset - run.offset
            piece = stored[start : start + chunk.location.stored]
            plain = self._verified(index, piece)
            place = (index - run.first) * CHUNK_SIZE
            view[place : place + len(plain)] = plain

    def _verified(self, index: int, stored: bytes) -> bytes:
        """The plain bytes of chunk `index`; fetched again where `stored` is something else."""
        wanted = self.table.chunks[index].digest
        found = ""
        for attempt in range(TRIES):
            if attempt:
                stored = self.source.again(next(runs_of((index,), self.table)))
            try:
                plain = codec.decompress(stored, self.table.length_of(index))
            except MalformedDocument as error:
                found = f"no chunk at all ({error})"
                continue
            digest = hashlib.sha256(plain)
            if digest.digest() == wanted:
                return plain
            found = digest.hexdigest()
        raise ChunkMismatch(index, self.name, wanted.hex(), found)
