"""The one way out of the RAM OS: restart.

On EC2 a stopped instance loses its instance store, so there is no other way here and a test holds
that none is added (anchors: reliability, row 6).
"""

import ctypes
from typing import Final

from flashboot.errors import MachineError
from flashboot.machine.reasons import reason

# linux/reboot.h LINUX_REBOOT_CMD_RESTART
_RESTART: Final = 0x01234567


def restart() -> None:
    """Restart the machine at once (reboot(2)), without a sync: the caller has flushed its device.

    A sync could hang on a disk that is gone, and only devices with O_DIRECT were written. Returns
    never; MachineError where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.reboot(ctypes.c_int(_RESTART))
    number = ctypes.get_errno()
    raise MachineError("restart", f"the kernel refuses: {reason(OSError(number, ''))}")
