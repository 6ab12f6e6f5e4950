"""The RAM OS that a statement pins, read from the directory that live-initramfs/build.py writes."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from flashboot.errors import DigestMismatch, MalformedDocument, PublishFailed
from flashboot.image.statement import Blob, RamOs
from flashboot.publish.sender import Sender
from flashboot.store.catalog import MAX_BLOB

_MANIFEST = "ramos.json"
_FILES = {"kernel": "vmlinuz", "initramfs": "initramfs"}


@dataclass(frozen=True, slots=True)
class BuiltRamOs:
    """A RAM OS and its bytes."""

    ramos: RamOs
    kernel: bytes
    initramfs: bytes

    def send(self, sender: Sender) -> None:
        """Make sure that the store has both."""
        sender.send(f"{self.ramos.prefix}/kernel", self.kernel)
        sender.send(f"{self.ramos.prefix}/initramfs", self.initramfs)


def read(directory: Path) -> BuiltRamOs:
    """The RAM OS in `directory`: vmlinuz, initramfs and ramos.json, which must agree.

    Raises PublishFailed, MalformedDocument and DigestMismatch.
    """
    try:
        manifest = json.loads((directory / _MANIFEST).read_bytes())
        data = {part: (directory / name).read_bytes() for part, name in _FILES.items()}
    except OSError as error:
        raise PublishFailed(
            f"the RAM OS in {directory}",
            f"{error.filename} cannot be read ({error.strerror})",
            hint="build it first: live-initramfs/README.md",
        ) from error
    except ValueError as error:
        raise MalformedDocument(_MANIFEST, f"not JSON ({error})") from error
    blobs = {part: _blob(manifest, part, data[part]) for part in _FILES}
    return BuiltRamOs(RamOs(blobs["kernel"], blobs["initramfs"]), data["kernel"], data["initramfs"])


def _blob(manifest: object, part: str, data: bytes) -> Blob:
    promised = manifest.get(part) if isinstance(manifest, dict) else None
    if not isinstance(promised, dict) or not {"sha256", "length"} <= set(promised):
        raise MalformedDocument(_MANIFEST, f"it does not say sha256 and length of the {part}")
    if not 0 < len(data) <= MAX_BLOB:
        raise PublishFailed("the RAM OS", f"its {part} has {len(data)} bytes, at most {MAX_BLOB}")
    found = hashlib.sha256(data)
    if promised["sha256"] != found.hexdigest() or promised["length"] != len(data):
        raise DigestMismatch(
            f"RAM OS's {part}",
            found.hexdigest(),
            promised["sha256"],
            hint="the directory holds parts of two builds; build it again",
        )
    return Blob(found.digest(), len(data))
