"""Defaults from /etc/flashboot/environment: KEY=VALUE lines as systemd's EnvironmentFile has them.

Only variables that are not set yet are set, so that the shell and a unit win over the file.
"""

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

from flashboot.errors import UsageError

PATH = "/etc/flashboot/environment"
_LINE = re.compile(r"\s*(?:([A-Za-z_][A-Za-z0-9_]*)=(.*?)|[#;].*|)\s*")


def load(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add the file's variables to `environment`. No file is no error; a wrong line is UsageError.

    FLASHBOOT_ENVIRONMENT names another file.
    """
    path = Path(environment.get("FLASHBOOT_ENVIRONMENT") or PATH)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read") from error
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise UsageError(f"{path}, line {number}: {line[:60]!r} is not KEY=VALUE")
        name, value = match[1], match[2] or ""
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        if name:
            environment.setdefault(name, value)
