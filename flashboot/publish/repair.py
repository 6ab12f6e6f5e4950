"""Packs of a published image that its store lost or holds wrong, made again from the source."""

import hashlib
from collections.abc import Iterable

from flashboot.image.table import ChunkTable, Location, Pack
from flashboot.publish.chunks import Prepared
from flashboot.publish.sender import Sender


class Mender:
    """Takes the image's chunks in order and sends each damaged pack when it has all of its own.

    A pack may hold chunks of earlier images too: those are taken from the damaged one. `unmended`
    are the packs that did not become what their names say; nothing was sent of them.
    """

    def __init__(self, table: ChunkTable, packs: Iterable[Pack], sender: Sender) -> None:
        self.unmended: list[Pack] = []
        self._table = table
        self._sender = sender
        broken = set(packs)
        self._frames: dict[int, dict[int, bytes]] = {  # by pack, then by offset in it
            index: {} for index, pack in enumerate(table.packs) if pack in broken
        }
        self._wanted: set[bytes] = set()
        first: dict[Location, int] = {}
        for index, chunk, place in table.stored_chunks():
            if place.pack in self._frames:
                self._wanted.add(chunk.digest)
                first.setdefault(place, index)
        # Of each pack the chunk that completes it: repeated ones are not waited for.
        self._last = {place.pack: index for place, index in first.items()}

    def needs(self, digest: bytes) -> bool:
        """Whether a chunk of this digest must have its frame. Safe to ask from any thread."""
        return digest in self._wanted

    def add(self, chunk: Prepared) -> None:
        """The next chunk of the image. Raises what the store raises."""
        place = self._table.chunks[chunk.index].location
        if place is None or place.pack not in self._frames:
            return
        assert chunk.stored is not None, "a chunk that is needed has a frame"
        self._frames[place.pack][place.offset] = chunk.stored
        if self._last[place.pack] == chunk.index:
            self._finish(self._table.packs[place.pack], self._frames.pop(place.pack))

    def _finish(self, pack: Pack, frames: dict[int, bytes]) -> None:
        body = self._there(pack)
        for offset, frame in frames.items():
            body[offset : offset + len(frame)] = frame
        if hashlib.sha256(body).digest() == pack.digest:
            self._sender.replace(pack.key, bytes(body))
        else:
            self.unmended.append(pack)

    def _there(self, pack: Pack) -> bytearray:
        """The pack as the store has it; zeroes where that has another length."""
        store = self._sender.store
        if store.size(pack.key) != pack.length:
            return bytearray(pack.length)
        return bytearray(store.get(pack.key, limit=pack.length))
