"""A statement and a table in words and as JSON, the same in every verb that shows them."""

import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashboot.image.statement import Blob, Statement
    from flashboot.image.table import ChunkTable


def statement_json(statement: "Statement") -> dict[str, Any]:
    """The statement for --json: sizes in bytes, times in seconds since 1970, 0 for never."""
    ramos = statement.ramos
    return {
        "name": statement.name,
        "image_size": statement.image_size,
        "digest": statement.digest.hex(),
        "created": statement.created,
        "expires": statement.expires,
        "sequence": statement.sequence,
        "architecture": statement.architecture,
        "boot_modes": list(statement.boot_modes),
        "sector_size": statement.sector_size,
        "source_ami": statement.source_ami,
        "source_snapshot": statement.source_snapshot,
        "table": {"key": statement.table_key, **_blob(statement.table)},
        "ramos": None
        if ramos is None
        else {
            "key": ramos.prefix,
            "kernel": _blob(ramos.kernel),
            "initramfs": _blob(ramos.initramfs),
        },
    }


def table_json(table: "ChunkTable") -> dict[str, Any]:
    """Counts for --json. `stored_bytes` counts each stored chunk of this image once."""
    stored = {place for _, _, place in table.stored_chunks()}
    zero = sum(chunk.is_zero for chunk in table.chunks)
    stored_bytes = sum(place.stored for place in stored)
    plain = {chunk.digest: table.length_of(index) for index, chunk, _ in table.stored_chunks()}
    return {
        "chunks": len(table.chunks),
        "zero_chunks": zero,
        "distinct_chunks": len(stored),
        "packs": len(table.packs),
        "stored_bytes": stored_bytes,
        "compression_ratio": round(sum(plain.values()) / stored_bytes, 2) if stored_bytes else 0.0,
    }


def time_text(seconds: int) -> str:
    """Seconds since 1970 as 2026-01-31 12:00:00Z, 'never' for 0."""
    if seconds == 0:
        return "never"
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s since 1970"
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def modes_text(modes: tuple[str, ...]) -> str:
    return ",".join(modes) or "none"


def _blob(blob: "Blob") -> dict[str, Any]:
    return {"sha256": blob.digest.hex(), "length": blob.length}
