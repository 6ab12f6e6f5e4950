"""How much a loader may load: it must never push out what it is bringing in."""

import threading
import time
from collections.abc import Callable

from happycache import system
from happycache.system import MIB

# What stays available for the programs: 5 % of the memory, and 64 MiB on small machines.
_KEEP_SHARE = 0.05
_KEEP_BYTES = 64 * MIB
# At 1 GB/s this is 20 MB of loading between two looks at /proc/meminfo, a third of the reserve.
_LOOK_SECONDS = 0.02


def keep_bytes(total: int) -> int:
    """Bytes that stay available on a machine with `total` bytes of memory."""
    return max(int(total * _KEEP_SHARE), _KEEP_BYTES)


class MemoryGuard:
    """Says when to stop loading. Used by all threads.

    MemAvailable counts clean page cache as available (proc(5)), so it hardly falls while we load:
    a map larger than the memory would go round and round. Therefore two limits: MemAvailable must
    stay above the reserve, and all that was asked for must fit into what was available at first.
    """

    def __init__(
        self,
        read: Callable[[], tuple[int, int] | None] = system.memory,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._next = clock() + _LOOK_SECONDS
        self._charged = 0
        self.low = False
        found = read()
        # Without /proc/meminfo there is nothing to hold to; the kernel's reclaim has to do.
        self._keep = keep_bytes(found[0]) if found else 0
        self._budget = max(found[1] - self._keep, 0) if found else 1 << 63

    def charge(self, count: int, *, resident: int = 0) -> bool:
        """Whether `count` further bytes may be loaded beside `resident` ones found in memory.

        Once it has said no it says no for good.
        """
        with self._lock:
            self._charged += resident
            now = self._clock()
            if not self.low and now >= self._next:
                self._next = now + _LOOK_SECONDS
                found = self._read()
                self.low = found is not None and found[1] < self._keep
            if count and self._charged + count > self._budget:
                self.low = True
            if self.low:
                return not count
            self._charged += count
            return True
