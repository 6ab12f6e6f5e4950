"""Lines into the kernel's log, which every console shows and which outlives this process."""

import os
from typing import Final

# syslog(3)
ERROR: Final = 3
WARNING: Final = 4
NOTICE: Final = 5
INFO: Final = 6
_FACILITY_USER: Final = 1

# The kernel refuses longer writes with EINVAL (LOG_LINE_MAX of Linux 5 and 6.1,
# kernel/printk/printk.c; newer kernels take 1024).
_LINE_BYTES: Final = 976


def kmsg(text: str, *, priority: int = INFO, path: str = "/dev/kmsg") -> bool:
    """Write each line of `text` to the kernel's log; False where that is not possible.

    Never raises: where there is no log, there is nobody to tell.
    """
    prefix = f"<{_FACILITY_USER << 3 | priority}>flashboot: ".encode()
    room = _LINE_BYTES - len(prefix) - 1
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        for line in text.splitlines():
            # Cut at a whole character.
            body = line.encode("utf-8", "replace")[:room].decode("utf-8", "ignore")
            os.write(descriptor, prefix + body.encode() + b"\n")
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
