"""Setting the wall clock, which a freshly booted RAM OS may have wrong by years.

Signatures of AWS requests and certificates need it right; deadlines use the monotonic clock.
"""

import time

from flashboot.errors import MachineError
from flashboot.machine.reasons import reason


def set_wall_clock(seconds: float) -> None:
    """Set the wall clock to `seconds` since 1970 (clock_settime(2)), forward or back."""
    try:
        time.clock_settime(time.CLOCK_REALTIME, seconds)
    except (OSError, OverflowError) as error:
        words = reason(error) if isinstance(error, OSError) else str(error)
        raise MachineError("wall clock", f"was not set to {seconds:.0f}: {words}") from error
