"""Results as JSON (stable: keys are only added) and as words."""

import os
import time
from typing import TYPE_CHECKING, Any

from happycache import words

# At run time each verb loads its own half of the program only.
if TYPE_CHECKING:
    from happycache.dump import DumpReport
    from happycache.load import LoadReport
    from happycache.mapfile import MapHead
    from happycache.show import MapSummary

Json = dict[str, Any]


def _head(head: "MapHead") -> Json:
    return {
        "created": _utc(head.created_ns),
        "created_ns": head.created_ns,
        "page_size": head.page_size,
        "roots": [os.fsdecode(root) for root in head.roots],
        "files": head.files,
        "pages": head.pages,
        "bytes": head.pages * head.page_size,
        "map_bytes": head.map_bytes,
        "sha256": head.sha256,
    }


def _utc(created_ns: int) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created_ns // 10**9))
    except (OverflowError, ValueError, OSError):
        # Any 64-bit number can stand in a map; not all are dates.
        return "unknown"


def dump_json(report: "DumpReport") -> Json:
    """The result of a dump."""
    return {
        "map": report.path,
        **_head(report.head),
        "scanned_files": report.scanned,
        "cold_files": report.cold,
        "unreadable": report.unreadable,
        "vanished_files": report.vanished,
        "unmappable_files": report.unmappable,
        "seconds": round(report.seconds, 3),
    }


def dump_text(report: "DumpReport") -> str:
    """The result of a dump in a sentence."""
    head = report.head
    left_out = f", {report.unreadable:,} left out" if report.unreadable else ""
    return (
        f"{words.name(report.path)}: {words.size(head.pages * head.page_size)} in memory of "
        f"{words.number(head.files, 'file')} ({report.scanned:,} looked at{left_out}), "
        f"map of {words.size(head.map_bytes)}, {report.seconds:.1f} s"
    )


def load_json(report: "LoadReport") -> Json:
    """The result of a load."""
    return {
        "map": report.path,
        "page_size": report.page_size,
        "asked_pages": report.asked_pages,
        "asked_bytes": report.asked_pages * report.page_size,
        "already_pages": report.already_pages,
        "loaded_pages": report.loaded_pages,
        "loaded_bytes": report.loaded_pages * report.page_size,
        "resident_pages": report.resident_pages,
        "gone_pages": report.gone_pages,
        "failed_pages": report.failed_pages,
        "files": {state.value: count for state, count in report.files.items()},
        "stopped": report.stopped,
        "ready": report.ready,
        "ready_share": round(report.ready_share, 2),
        "wanted_share": report.wanted_share,
        "seconds": round(report.seconds, 3),
    }


def load_text(report: "LoadReport") -> str:
    """The result of a load: a sentence, and a line for each thing that was not as dumped."""
    page = report.page_size
    totals = (
        f"{report.ready_share:.1f} % of {words.size(report.asked_pages * page)} in memory: "
        f"{words.size(report.loaded_pages * page)} loaded, "
        f"{words.size(report.already_pages * page)} already there, "
        f"{words.size(report.gone_pages * page)} gone, "
        f"{words.size(report.failed_pages * page)} failed, {report.seconds:.1f} s"
    )
    differing = [
        f"{count:,} {state.value}"
        for state, count in report.files.items()
        if count and state.value != "same"
    ]
    if not differing:
        return totals
    return f"{totals}\nfiles not as they were: {', '.join(differing)}"


def show_json(summary: "MapSummary") -> Json:
    """What a map holds."""
    page = summary.head.page_size
    return {
        "map": summary.path,
        **_head(summary.head),
        "runs": summary.runs,
        "file_bytes": summary.file_bytes,
        "directories": summary.directories,
        "top": [
            {
                "directory": os.fsdecode(row.path),
                "files": row.files,
                "pages": row.pages,
                "bytes": row.pages * page,
            }
            for row in summary.top
        ],
    }


def show_text(summary: "MapSummary") -> str:
    """What a map holds, as a table."""
    head = summary.head
    resident = head.pages * head.page_size
    lines = [
        f"map        {words.name(summary.path)} ({words.size(head.map_bytes)})",
        f"created    {_utc(head.created_ns)}",
        f"roots      {', '.join(map(words.name, head.roots))}",
        f"page size  {words.size(head.page_size)}",
        f"files      {head.files:,} of {words.size(summary.file_bytes)}",
        f"in memory  {words.size(resident)} ({head.pages:,} pages in {summary.runs:,} runs)",
        f"sha256     {head.sha256}",
    ]
    if summary.top:
        lines += ["", f"{'in memory':>12} {'share':>6} {'files':>10}  directory"]
        lines += [
            f"{words.size(row.pages * head.page_size):>12} {row.pages / head.pages:>6.1%} "
            f"{row.files:>10,}  {words.name(row.path)}"
            for row in summary.top
        ]
        rest = summary.directories - len(summary.top)
        if rest:
            lines.append(f"{'':>12} {'':>6} {'':>10}  and {rest:,} more")
    return "\n".join(lines)
