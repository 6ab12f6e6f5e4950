"""`happycache show`: what a residency map holds."""

import heapq
import os
from dataclasses import dataclass

from happycache import words
from happycache.errors import MapUnreadable, reason
from happycache.mapfile import MapHead, MapReader

DEFAULT_TOP = 10


@dataclass(frozen=True, slots=True)
class DirectorySum:
    """The files of the map that lie directly in one directory."""

    path: bytes
    files: int
    pages: int


@dataclass(frozen=True, slots=True)
class MapSummary:
    """What a map holds."""

    path: str
    head: MapHead
    runs: int
    # Sizes of the listed files, in bytes: resident or not.
    file_bytes: int
    # Directories with listed files, and the largest of them by resident pages.
    directories: int
    top: tuple[DirectorySum, ...]


def summarize(path: str, *, top: int = DEFAULT_TOP) -> MapSummary:
    """Reads the whole map at `path` and so checks it. Raises MapUnreadable, MapMalformed."""
    sums: dict[bytes, tuple[int, int]] = {}
    runs = file_bytes = 0
    try:
        with open(path, "rb") as source:
            reader = MapReader(source)
            head = reader.head
            for entry in reader.files():
                runs += entry.runs.count
                file_bytes += entry.size
                folder = os.path.dirname(os.path.join(head.roots[entry.root], entry.path))
                files, pages = sums.get(folder, (0, 0))
                sums[folder] = (files + 1, pages + entry.runs.pages)
    except OSError as error:
        raise MapUnreadable(words.name(path), reason(error)) from error
    # By pages, then by name, so that the same map always gives the same table.
    largest = heapq.nsmallest(top, sums.items(), key=lambda item: (-item[1][1], item[0]))
    rows = tuple(DirectorySum(folder, files, pages) for folder, (files, pages) in largest)
    return MapSummary(path, head, runs, file_bytes, len(sums), rows)
