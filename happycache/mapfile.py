"""The residency map as bytes: docs/formats/residency-map.md, read and written.

Works on binary streams and never on paths. Memory does not grow with the map: one file's record at
a time is held.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

import zstandard

from happycache import residency, varint
from happycache.errors import MapDamaged, MapMalformed, MapTooLarge, MapVersionUnknown
from happycache.residency import Runs

MAGIC = b"HAPPYMAP"
VERSION = 1

# A map of a machine with a terabyte of cache in scattered pages has some hundred MiB; these caps
# only keep a wrong or hostile file from eating the node.
MAP_LIMIT_BYTES = 1 << 31
CONTENT_LIMIT_BYTES = 1 << 32
RECORD_LIMIT_BYTES = 1 << 28
# PATH_MAX of Linux: no system call takes a longer path.
PATH_LIMIT_BYTES = 4096
ROOTS_LIMIT = 4096
# zstd's own limit for windows that every decoder accepts is 8 MiB; level 3 uses 2.
WINDOW_LIMIT_BYTES = 8 << 20
# Level 3 of zstd: above it the map shrinks by 2 % and costs several times the processor's time.
_LEVEL = 3
_PIECE = 1 << 16

# magic, version, page size, created (ns since 1970)
_HEADER = struct.Struct("<8sIIQ")
# content bytes, files, pages; the SHA-256 follows
_TOTALS = struct.Struct("<QQQ")
_DIGEST_BYTES = 32
_TRAILER_BYTES = _TOTALS.size + _DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: who it was when dumped, and which of its pages were resident."""

    # Index into the map's roots.
    root: int
    # Relative to that root.
    path: bytes
    device: int
    inode: int
    size: int
    mtime_ns: int
    runs: Runs


@dataclass(frozen=True, slots=True)
class MapHead:
    """What a map says of itself."""

    page_size: int
    created_ns: int
    roots: tuple[bytes, ...]
    files: int
    pages: int
    content_bytes: int
    map_bytes: int
    sha256: str


def encode_entry(entry: FileEntry) -> bytes:
    """The record of one file, without its length."""
    return b"".join(
        (
            varint.encode(entry.root),
            varint.encode(len(entry.path)),
            entry.path,
            varint.encode(entry.device),
            varint.encode(entry.inode),
            varint.encode(entry.size),
            varint.encode(varint.zigzag(entry.mtime_ns)),
            entry.runs.encoded,
        )
    )


def decode_entry(record: bytes, *, page_size: int, roots: int) -> FileEntry:
    """The inverse of `encode_entry` for bytes that nobody vouches for. Raises MapMalformed."""
    root, offset = varint.decode(record, 0)
    if root >= roots:
        raise MapMalformed(f"a file belongs to root {root} of {roots}")
    length, offset = varint.decode(record, offset)
    path = record[offset : offset + length]
    _check_path(path, length)
    offset += length
    device, offset = varint.decode(record, offset)
    inode, offset = varint.decode(record, offset)
    size, offset = varint.decode(record, offset)
    if size >= 1 << 63:
        raise MapMalformed("a file is larger than a file can be")
    mtime, offset = varint.decode(record, offset)
    runs = residency.parse(record[offset:], limit_pages=-(-size // page_size))
    if not runs.count:
        raise MapMalformed("a file without resident pages is listed")
    return FileEntry(root, path, device, inode, size, varint.unzigzag(mtime), runs)


def _check_path(path: bytes, length: int) -> None:
    """A loader opens what the path names as root: it must stay below the root."""
    if len(path) != length or not 0 < length <= PATH_LIMIT_BYTES:
        raise MapMalformed("a path is empty, too long or cut short")
    if b"\0" in path or any(part in (b"", b".", b"..") for part in path.split(b"/")):
        raise MapMalformed("a path is not plain and relative")


def _check_root(path: bytes, length: int) -> None:
    if len(path) != length or not 0 < length <= PATH_LIMIT_BYTES:
        raise MapMalformed("a root is empty, too long or cut short")
    if not path.startswith(b"/") or b"\0" in path:
        raise MapMalformed("a root is not an absolute path")


class MapWriter:
    """Writes one map to a stream: made, then `add` for each file, then `finish`."""

    def __init__(
        self,
        sink: BinaryIO,
        *,
        page_size: int,
        created_ns: int,
        roots: tuple[bytes, ...],
    ) -> None:
        if len(roots) > ROOTS_LIMIT:
            raise MapTooLarge("its list of roots", len(roots), ROOTS_LIMIT)
        self._sink = sink
        self._hash = hashlib.sha256()
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
        self._about = (page_size, created_ns, roots)
        self._map_bytes = 0
        self._content_bytes = 0
        self._files = 0
        self._pages = 0
        self._emit(_HEADER.pack(MAGIC, VERSION, page_size, created_ns))
        self._content(varint.encode(len(roots)))
        for root in roots:
            _check_root(root, len(root))
            self._content(varint.encode(len(root)) + root)

    def add(self, entry: FileEntry) -> None:
        """Adds one file with at least one resident page. Raises MapTooLarge."""
        record = encode_entry(entry)
        if len(record) > RECORD_LIMIT_BYTES:
            raise MapTooLarge("a file's record", len(record), RECORD_LIMIT_BYTES)
        self._content(varint.encode(len(record)) + record)
        self._files += 1
        self._pages += entry.runs.pages

    def finish(self) -> MapHead:
        """Writes what is left and says what the map holds."""
        self._emit(self._compressor.flush())
        self._emit(_TOTALS.pack(self._content_bytes, self._files, self._pages))
        digest = self._hash.digest()
        self._sink.write(digest)
        self._map_bytes += len(digest)
        if self._map_bytes > MAP_LIMIT_BYTES:
            raise MapTooLarge("it", self._map_bytes, MAP_LIMIT_BYTES)
        return MapHead(
            *self._about,
            files=self._files,
            pages=self._pages,
            content_bytes=self._content_bytes,
            map_bytes=self._map_bytes,
            sha256=digest.hex(),
        )

    def _content(self, data: bytes) -> None:
        self._content_bytes += len(data)
        if self._content_bytes > CONTENT_LIMIT_BYTES:
            raise MapTooLarge("its content", self._content_bytes, CONTENT_LIMIT_BYTES)
        self._emit(self._compressor.compress(data))

    def _emit(self, data: bytes) -> None:
        self._hash.update(data)
        self._sink.write(data)
        self._map_bytes += len(data)


class MapReader:
    """Reads one map from a stream that can seek.

    Checks, in this order: length, magic, version, caps, digest; only then is anything unpacked.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        map_bytes = source.seek(0, 2)
        if map_bytes > MAP_LIMIT_BYTES:
            raise MapTooLarge("it", map_bytes, MAP_LIMIT_BYTES)
        source.seek(0)
        start = source.read(_HEADER.size)
        if start[: len(MAGIC)] != MAGIC:
            raise MapMalformed("it does not begin with HAPPYMAP")
        if map_bytes < _HEADER.size + _TRAILER_BYTES:
            raise MapMalformed("it is cut short")
        _, version, page_size, created_ns = _HEADER.unpack(start)
        if version != VERSION:
            raise MapVersionUnknown(version, VERSION)
        source.seek(map_bytes - _TRAILER_BYTES)
        trailer = source.read(_TRAILER_BYTES)
        want = trailer[_TOTALS.size :].hex()
        found = self._digest(map_bytes - _DIGEST_BYTES)
        if found != want:
            raise MapDamaged(found, want)
        if not 1 << 10 <= page_size <= 1 << 21 or page_size & page_size - 1:
            raise MapMalformed(f"its page size is {page_size} bytes")
        content_bytes, files, pages = _TOTALS.unpack(trailer[: _TOTALS.size])
        if content_bytes > CONTENT_LIMIT_BYTES:
            raise MapTooLarge("its content", content_bytes, CONTENT_LIMIT_BYTES)
        self._body = (_HEADER.size, map_bytes - _TRAILER_BYTES)
        self._content_bytes = content_bytes
        roots = self._roots(self._open_content())
        self.head = MapHead(
            page_size=page_size,
            created_ns=created_ns,
            roots=roots,
            files=files,
            pages=pages,
            content_bytes=content_bytes,
            map_bytes=map_bytes,
            sha256=want,
        )

    def files(self) -> Iterator[FileEntry]:
        """Every file of the map, from the first on. Raises MapMalformed.

        One iteration at a time: the stream has one position.
        """
        content = self._open_content()
        self._roots(content)
        files = pages = 0
        while not content.at_end():
            record = content.take(content.number(), RECORD_LIMIT_BYTES, "a file's record")
            entry = decode_entry(record, page_size=self.head.page_size, roots=len(self.head.roots))
            files += 1
            pages += entry.runs.pages
            yield entry
        if (files, pages) != (self.head.files, self.head.pages):
            raise MapMalformed("it holds another number of files or pages than it says")

    def _digest(self, length: int) -> str:
        self._source.seek(0)
        state = hashlib.sha256()
        while length:
            data = self._source.read(min(length, _PIECE))
            if not data:
                raise MapMalformed("it is cut short")
            state.update(data)
            length -= len(data)
        return state.hexdigest()

    def _open_content(self) -> "_Content":
        return _Content(self._source, *self._body, content_bytes=self._content_bytes)

    @staticmethod
    def _roots(content: "_Content") -> tuple[bytes, ...]:
        count = content.number()
        if count > ROOTS_LIMIT:
            raise MapTooLarge("its list of roots", count, ROOTS_LIMIT)
        roots = []
        for _ in range(count):
            length = content.number()
            root = content.take(length, PATH_LIMIT_BYTES, "a root")
            _check_root(root, length)
            roots.append(root)
        return tuple(roots)


class _Content:
    """The unpacked body, read from front to back in pieces of bounded size."""

    def __init__(self, source: BinaryIO, start: int, end: int, *, content_bytes: int) -> None:
        decoder = zstandard.ZstdDecompressor(max_window_size=WINDOW_LIMIT_BYTES)
        section = cast("IO[bytes]", _Section(source, start, end))
        self._stream = decoder.stream_reader(section, read_size=_PIECE)
        self._buffer = b""
        self._offset = 0
        # Bytes that were promised and have not been unpacked.
        self._left = content_bytes

    def at_end(self) -> bool:
        """Whether everything was read; whether the body has more than was promised is checked."""
        if self._offset < len(self._buffer) or self._left:
            return False
        if self._unpack(1):
            raise MapMalformed("its body unpacks to more than it says")
        return True

    def number(self) -> int:
        """The varint at this place."""
        # Whole records are taken at once, so this runs once or twice a file.
        self._fill(varint.MAX_BYTES)
        value, offset = varint.decode(self._buffer, self._offset)
        self._offset = offset
        return value

    def take(self, length: int, limit: int, what: str) -> bytes:
        """The next `length` bytes, at most `limit`. Raises MapTooLarge, MapMalformed."""
        if length > limit:
            raise MapTooLarge(what, length, limit)
        self._fill(length)
        data = self._buffer[self._offset : self._offset + length]
        if len(data) != length:
            raise MapMalformed("its body ends within a record")
        self._offset += length
        return data

    def _fill(self, length: int) -> None:
        """Has `length` bytes ready, or fewer at the end."""
        missing = length - (len(self._buffer) - self._offset)
        if missing <= 0 or not self._left:
            return
        parts = [self._buffer[self._offset :]]
        while missing > 0 and self._left:
            data = self._unpack(min(self._left, max(missing, _PIECE)))
            if not data:
                raise MapMalformed("its body unpacks to less than it says")
            parts.append(data)
            missing -= len(data)
            self._left -= len(data)
        self._buffer = b"".join(parts)
        self._offset = 0

    def _unpack(self, length: int) -> bytes:
        try:
            return self._stream.read(length)
        except zstandard.ZstdError as error:
            raise MapMalformed(f"its body cannot be unpacked: {error}") from error


class _Section:
    """The bytes [start, end) of a stream, for a decoder that only reads."""

    def __init__(self, source: BinaryIO, start: int, end: int) -> None:
        self._source = source
        self._position = start
        self._end = end

    def read(self, length: int = -1) -> bytes:
        left = self._end - self._position
        self._source.seek(self._position)
        data = self._source.read(left if length < 0 else min(left, length))
        self._position += len(data)
        return data
