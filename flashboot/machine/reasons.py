"""One way from an errno to words. Each door passes the meanings its man page gives."""

import errno
import os
from collections.abc import Mapping


def reason(error: OSError, meanings: Mapping[int, str] | None = None) -> str:
    """What `error` means here, else what the C library says of it, always with the errno's name."""
    number = error.errno
    if number is None:
        return str(error) or type(error).__name__
    words = (meanings or {}).get(number) or os.strerror(number)
    return f"{words} ({errno.errorcode.get(number, number)})"
