"""The envelope around a statement: DSSE (github.com/secure-systems-lab/dsse, protocol.md).

    {"payload": BASE64, "payloadType": TYPE, "signatures": [{"keyid": ID, "sig": BASE64}, ...]}

Its signatures are over the exact payload bytes, so there is no second spelling to agree on.
This version writes no signatures and asks for none: keys, roles and the refusal of unsigned
images are issue B; the place for them is here and in `open_envelope`.
"""

import base64

from flashboot.errors import DocumentTooLarge, MalformedDocument
from flashboot.image import document

PAYLOAD_TYPE = "application/vnd.flashboot.statement.v1+json"
MAX_BYTES = 4096  # what a reader fetches at most before it trusts anything
_MAX_SIGNATURES = 8


def seal(payload: bytes) -> bytes:
    """`payload` in an envelope. Raises DocumentTooLarge."""
    data = document.dump(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [],
        }
    )
    if len(data) > MAX_BYTES:
        raise DocumentTooLarge("envelope", len(data), MAX_BYTES)
    return data


def open_envelope(data: bytes) -> bytes:
    """The payload in the envelope `data`. Raises DocumentTooLarge and MalformedDocument."""
    what = "envelope"
    if len(data) > MAX_BYTES:
        raise DocumentTooLarge(what, len(data), MAX_BYTES)
    fields = document.load(data, what=what)
    payload_type = fields.text("payloadType")
    if payload_type != PAYLOAD_TYPE:
        raise fields.fail(f"payload type {payload_type[:80]!r} is not {PAYLOAD_TYPE}")
    text = fields.text("payload", cap=MAX_BYTES)
    fields.objects("signatures", cap=_MAX_SIGNATURES)
    fields.finish()
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error is one; letters beyond ASCII give a plain one
        raise MalformedDocument(what, f"the payload is not base64 ({error})") from error
