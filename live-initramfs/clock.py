"""Sets the clock once from an NTP server; Debian's busybox has no ntpd.

    clock.py HOST

Signatures of requests to AWS fail when the clock is off by more than five minutes; the kernel
has set the clock from the RTC before, so this mends what is rare. SNTP as in RFC 4330, with its
checks of an answer; not a daemon, and it does not slew.
"""

import socket
import struct
import sys
import time

# Seconds from 1900, where NTP counts from, to 1970 (RFC 4330, section 3).
_EPOCH = 2_208_988_800
_PACKET = struct.Struct("!BBbb11I")
_REQUEST_MODE = 0x23  # no leap warning, version 4, client
_TIMEOUT_SECONDS = 1.0
_TRIES = 4
# Less than this is left alone: nothing here minds, and timestamps stay in order.
_TOLERANCE_SECONDS = 0.5


def request(nonce: int) -> bytes:
    """A client's packet; the server sends `nonce` back as the originate timestamp."""
    return _PACKET.pack(_REQUEST_MODE, 0, 0, 0, *[0] * 9, nonce >> 32, nonce & 0xFFFFFFFF)


def server_time(answer: bytes, nonce: int) -> float:
    """Seconds since 1970 by the server. Raises ValueError for what is no answer to `nonce`."""
    if len(answer) < _PACKET.size:
        raise ValueError(f"an answer of {len(answer)} bytes is too short")
    flags, stratum, *rest = (int(field) for field in _PACKET.unpack_from(answer))
    originate = rest[7] << 32 | rest[8]
    seconds, fraction = rest[11], rest[12]
    if flags & 7 != 4 or flags >> 6 == 3 or not 1 <= stratum <= 15:
        raise ValueError("the server has no time to give")
    if originate != nonce or seconds == 0:
        raise ValueError("the answer is to another question")
    # Counting starts anew in 2036; a small number means after that.
    era = 0 if seconds >= 1 << 31 else 1 << 32
    return seconds + era - _EPOCH + fraction / (1 << 32)


def main(host: str) -> int:
    """Ask `host` until it answers; 0 if the clock is right afterwards."""
    for _ in range(_TRIES):
        nonce = time.time_ns()
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, 123, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as channel:
                channel.settimeout(_TIMEOUT_SECONDS)
                channel.connect(address)
                sent = time.monotonic()
                channel.send(request(nonce))
                true = server_time(channel.recv(512), nonce) + (time.monotonic() - sent) / 2
        except (OSError, ValueError) as error:
            print(f"flashboot: {host}: {error}", file=sys.stderr)
            time.sleep(0.2)
            continue
        offset = true - time.time()
        if abs(offset) > _TOLERANCE_SECONDS:
            time.clock_settime(time.CLOCK_REALTIME, true)
            print(f"flashboot: the clock was off by {offset:.1f} s and is set", file=sys.stderr)
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
