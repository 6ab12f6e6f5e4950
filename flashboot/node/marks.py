"""Finding the marks that the system before this one left on the data filesystems."""

from dataclasses import dataclass
from pathlib import Path

from flashboot.errors import FlashbootError, explain
from flashboot.node import files, layout, runs
from flashboot.node.runs import MARK, MARK_DIRECTORY, MARK_DONE, MARK_RETURNED, Mark
from flashboot.node.system import System


@dataclass(frozen=True, slots=True)
class Found:
    """A mark and where it lies; `root` is the mount point of its filesystem."""

    mark: Mark
    path: Path
    root: Path


def find(system: System, *, names: tuple[str, ...] = (MARK,)) -> tuple[Found, ...]:
    """The marks of the latest run, one a filesystem. Unreadable ones are said and left out."""
    found: list[Found] = []
    for place in layout.survey(system).data_filesystems:
        root = Path(place.target)
        for name in names:
            path = root / MARK_DIRECTORY / name
            try:
                data = files.read(path)
                if data is not None:
                    found.append(Found(runs.load_mark(data), path, root))
            except FlashbootError as error:
                system.say(f"warning: {path} is left out: {explain(error)}")
    if not found:
        return ()
    latest = max(found, key=lambda one: one.mark.left_at).mark.run.name
    return tuple(one for one in found if one.mark.run.name == latest)


def find_any(system: System) -> Found | None:
    """The latest mark, of an arrival that is over as well."""
    return next(iter(find(system, names=(MARK, MARK_DONE, MARK_RETURNED))), None)
