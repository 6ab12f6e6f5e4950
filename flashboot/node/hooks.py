"""The operator's own programs: the executables in a directory, in the order of their names."""

import os
from pathlib import Path

from flashboot.errors import MachineError
from flashboot.machine.reasons import reason
from flashboot.node.runs import Run
from flashboot.node.system import System

BEFORE_FLASH = "before-flash"
AFTER_ABORT = "after-abort"
AFTER_ARRIVE = "after-arrive"


def find(directory: Path) -> tuple[Path, ...]:
    """The hooks in `directory`; none where there is no such directory. Raises MachineError."""
    try:
        paths = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise MachineError(directory, f"cannot be read: {reason(error)}") from error
    return tuple(path for path in paths if path.is_file() and os.access(path, os.X_OK))


def run_all(
    system: System, directory: Path, run: Run, *, timeout_seconds: float
) -> tuple[str, ...]:
    """Run them one after another, `timeout_seconds` each; their names.

    Raises CommandFailed at the first that fails, with its last words.
    """
    names: list[str] = []
    for path in find(directory):
        system.say(f"hook {directory.name}/{path.name}")
        system.run(
            [str(path)],
            timeout_seconds=timeout_seconds,
            env={
                "FLASHBOOT_RUN": run.name,
                "FLASHBOOT_IMAGE": run.image,
                "FLASHBOOT_DIGEST": run.digest,
                "FLASHBOOT_INSTANCE": run.instance,
            },
        )
        names.append(path.name)
    return tuple(names)
