"""Unsigned LEB128: seven bits a byte, lowest first, the top bit says that more follow.

Only the shortest form is accepted, so that equal values have equal bytes.
"""

from happycache.errors import MapMalformed

# 64 bits need ten groups of seven.
MAX_BYTES = 10
_LIMIT = 1 << 64


def encode(value: int) -> bytes:
    """`value`, 0 <= value < 2**64, as one varint. Raises ValueError outside."""
    if not 0 <= value < _LIMIT:
        raise ValueError(f"not an unsigned 64-bit number: {value}")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: bytes, offset: int) -> tuple[int, int]:
    """The number at `offset` and the offset behind it. Raises MapMalformed."""
    value = shift = 0
    for position in range(offset, min(offset + MAX_BYTES, len(data))):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= _LIMIT or (byte == 0 and shift):
                break
            return value, position + 1
        shift += 7
    raise MapMalformed("a number in it is cut short, too large or not in its shortest form")


def zigzag(value: int) -> int:
    """A signed 64-bit number as an unsigned one with small results for small magnitudes."""
    return value << 1 if value >= 0 else (-value << 1) - 1


def unzigzag(value: int) -> int:
    """The inverse of `zigzag`."""
    return value >> 1 if value & 1 == 0 else -((value + 1) >> 1)
