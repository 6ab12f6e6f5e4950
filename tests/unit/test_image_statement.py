"""The statement and its envelope: round trips, every refusal, and what fits a machine."""

import base64
import contextlib
import functools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot.errors import DocumentTooLarge, FlashbootError, MalformedDocument, UnfitImage
from flashboot.image import envelope, statement
from flashboot.image.statement import Blob, RamOs, Statement, check_fit, require_fit
from flashboot.image.table import MAX_TABLE_BYTES
from flashboot.units import GIB
from tests import strategies
from tests.strategies import sha256

APP = Statement(
    name="app-42",
    image_size=2 * GIB,
    digest=sha256(b"image"),
    table=Blob(sha256(b"table"), 1000),
    architecture="x86_64",
    boot_modes=("bios", "uefi"),
    sector_size=512,
    created=1_700_000_000,
    sequence=42,
    expires=1_800_000_000,
    source_ami="ami-1",
    source_snapshot="snap-1",
    ramos=RamOs(Blob(sha256(b"kernel"), 10), Blob(sha256(b"initramfs"), 20)),
)
FIELDS: dict[str, Any] = json.loads(statement.dump(APP))
REMOVED = object()


def changed(path: str, value: Any) -> bytes:
    """APP's document with the field at `path` (dots between) changed, or REMOVED."""
    document = json.loads(json.dumps(FIELDS))
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place[name]
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document).encode()


@given(strategies.statements())
def test_what_is_written_is_read_back(value: Statement) -> None:
    data = statement.dump(value)
    assert statement.load(data) == value
    assert statement.dump(statement.load(data)) == data


@given(strategies.statements())
def test_every_statement_fits_its_envelope(value: Statement) -> None:
    data = statement.dump(value)
    sealed = envelope.seal(data)
    assert len(sealed) <= envelope.MAX_BYTES
    assert envelope.open_envelope(sealed) == data


def test_keys_and_prefix() -> None:
    assert APP.key == "images/app-42"
    assert APP.table_key == f"tables/{sha256(b'table').hex()}"
    assert APP.ramos is not None
    both = sha256(sha256(b"kernel") + sha256(b"initramfs"))
    assert APP.ramos.prefix == f"ramos/{both.hex()}"


@pytest.mark.parametrize(
    "path",
    [
        *FIELDS,
        "source.ami",
        "source.snapshot",
        "table.sha256",
        "table.length",
        "ramos.kernel",
        "ramos.initramfs",
        "ramos.kernel.sha256",
    ],
)
def test_each_field_is_needed_and_has_its_type(path: str) -> None:
    if path != "ramos":  # the one field that may be left out
        with pytest.raises(MalformedDocument, match=f"{path.rpartition('.')[2]} is missing"):
            statement.load(changed(path, REMOVED))
    for wrong in (None, [1], -1, True, 1.5, "\ud800"):
        with pytest.raises(MalformedDocument):
            statement.load(changed(path, wrong))


def test_a_statement_need_not_pin_a_ram_os() -> None:
    assert statement.load(changed("ramos", REMOVED)) == replace(APP, ramos=None)


@pytest.mark.parametrize("path", ["x", "source.x", "table.x", "ramos.x", "ramos.kernel.x"])
def test_an_unknown_field_is_refused(path: str) -> None:
    with pytest.raises(MalformedDocument, match="unknown field 'x'"):
        statement.load(changed(path, "y"))


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("schema", "flashboot.statement/2", "schema 'flashboot.statement/2' is not known here"),
        ("name", "", "is not a name"),
        ("name", "../etc", "is not a name"),
        ("name", ".hidden", "is not a name"),
        ("name", "a/b", "is not a name"),
        ("name", "a\n", "is not a name"),
        ("name", "ä", "is not a name"),
        ("name", "x" * 129, "is not a name"),
        ("architecture", "i386", "unknown architecture 'i386'"),
        ("boot_modes", ["uefi", "bios"], "unsorted boot modes"),
        ("boot_modes", ["bios", "bios"], "repeated"),
        ("boot_modes", ["coreboot"], "unknown"),
        ("boot_modes", ["bios", "uefi", "uefi"], "boot_modes is not a list of at most 2"),
        ("sector_size", 520, "sector size 520 is neither 512 nor 4096"),
        ("sector_size", 0, "sector size 0"),
        ("image_size", 0, "image_size is 0"),
        ("image_size", 1000, "image size 1000 is not a whole number of sectors"),
        ("image_size", 2**64, "image_size is"),
        ("image_size", 10**30, "a number is too long"),
        ("digest", "ab", "digest is not a SHA-256"),
        ("digest", "AB" * 32, "digest is not a SHA-256"),
        ("table.sha256", "x" * 64, "sha256 is not a SHA-256"),
        ("table.length", 0, "length is 0"),
        ("table.length", MAX_TABLE_BYTES + 1, "table length 16777217 is impossible"),
        ("ramos.kernel.length", 0, "length is 0"),
        ("source.ami", "a" * 65, "ami has more than 64 characters"),
    ],
)
def test_an_impossible_value_is_refused(path: str, value: Any, problem: str) -> None:
    with pytest.raises(MalformedDocument) as caught:
        statement.load(changed(path, value))
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 300


def test_4096_byte_sectors_need_whole_ones() -> None:
    with pytest.raises(MalformedDocument, match="image size 2560 is not a whole number of sectors"):
        replace(APP, sector_size=4096, image_size=2560)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": b"short"},
        {"table": Blob(b"", 1)},
        {"created": -1},
        {"sequence": 2**70},
        {"source_ami": "a" * 65},
        {"source_ami": "\udcff"},
        {"ramos": RamOs(Blob(b"", 1), Blob(bytes(32), 1))},
    ],
)
def test_what_no_reader_would_take_is_not_written(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedDocument):
        statement.dump(replace(APP, **change))


@given(st.sampled_from(sorted(FIELDS)), strategies.json_values)
def test_any_value_in_any_field_is_taken_or_refused_with_a_sentence(key: str, value: Any) -> None:
    with contextlib.suppress(MalformedDocument):
        statement.load(changed(key, value))


@given(st.binary(max_size=100))
def test_noise_is_refused_with_a_sentence(noise: bytes) -> None:
    for read in (statement.load, envelope.open_envelope):
        with contextlib.suppress(FlashbootError):
            read(noise)


def test_names() -> None:
    assert statement.check_name("app-42_b.c") == "app-42_b.c"
    assert statement.is_name("a")
    assert not statement.is_name("a+b")
    with pytest.raises(MalformedDocument, match="The image name is malformed: '-a' is not a name"):
        statement.check_name("-a")


class TestFit:
    def reasons(self, boot_mode: str | None = "bios", **changes: Any) -> tuple[str, ...]:
        machine: dict[str, Any] = {
            "architecture": "x86_64",
            "device_size": 2 * GIB,
            "sector_size": 512,
            **changes,
        }
        return check_fit(APP, boot_mode=boot_mode, **machine)

    def test_a_machine_like_it_says(self) -> None:
        assert self.reasons() == ()
        assert self.reasons(boot_mode="uefi", device_size=3 * GIB) == ()
        require_fit(APP, ())

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"architecture": "aarch64"}, "it is for x86_64, this machine is aarch64"),
            ({"boot_mode": "none"}, "boots with bios and uefi, this machine starts with none"),
            ({"sector_size": 4096}, "for sectors of 512 bytes, the device has 4096"),
            ({"device_size": 2 * GIB - 512}, "it has 2147483648 bytes, the device only 2147483136"),
        ],
    )
    def test_each_reason_alone(self, changes: dict[str, Any], reason: str) -> None:
        (found,) = self.reasons(**changes)
        assert reason in found

    def test_all_reasons_at_once(self) -> None:
        reasons = self.reasons("none", architecture="riscv", device_size=1, sector_size=4096)
        assert len(reasons) == 4
        with pytest.raises(UnfitImage, match=r"Image app-42 does not fit here: it is for .*; it b"):
            require_fit(APP, reasons)

    def test_an_image_for_no_firmware_fits_only_where_none_is_asked(self) -> None:
        data = replace(APP, boot_modes=())
        fit = functools.partial(
            check_fit, data, architecture="x86_64", device_size=2 * GIB, sector_size=512
        )
        assert fit(boot_mode=None) == ()
        (reason,) = fit(boot_mode="bios")
        assert "it boots with no firmware" in reason


class TestEnvelope:
    def sealed(self, **changes: Any) -> bytes:
        fields = {
            "payload": base64.b64encode(b"paper").decode(),
            "payloadType": envelope.PAYLOAD_TYPE,
            "signatures": [],
        }
        fields.update(changes)
        kept = {name: value for name, value in fields.items() if value is not REMOVED}
        return json.dumps(kept).encode()

    def test_it_is_dsse(self) -> None:
        assert json.loads(envelope.seal(b"paper")) == json.loads(self.sealed())
        assert envelope.open_envelope(self.sealed()) == b"paper"

    def test_signatures_may_stand_there(self) -> None:
        signed = self.sealed(signatures=[{"keyid": "k", "sig": "c2ln"}])
        assert envelope.open_envelope(signed) == b"paper"

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"payload": REMOVED}, "payload is missing"),
            ({"payload": 1}, "payload is not a text"),
            ({"payload": "%%%%"}, "the payload is not base64"),
            ({"payload": "cGFwZXI"}, "the payload is not base64"),
            ({"payload": "cGFw\nZXI="}, "the payload is not base64"),
            ({"payload": "ä"}, "the payload is not base64"),
            ({"payloadType": REMOVED}, "payloadType is missing"),
            ({"payloadType": "text/plain"}, "payload type 'text/plain' is not application/vnd"),
            ({"signatures": REMOVED}, "signatures is missing"),
            ({"signatures": [1]}, "signatures is not a list of at most 8 objects"),
            ({"signatures": [{}] * 9}, "signatures is not a list of at most 8 objects"),
            ({"extra": 1}, "unknown field 'extra'"),
        ],
    )
    def test_anything_else_is_refused(self, changes: dict[str, Any], problem: str) -> None:
        with pytest.raises(MalformedDocument) as caught:
            envelope.open_envelope(self.sealed(**changes))
        assert str(caught.value).startswith(f"The envelope is malformed: {problem}")

    def test_its_length_is_capped_both_ways(self) -> None:
        with pytest.raises(DocumentTooLarge, match="more than the 4096"):
            envelope.seal(bytes(4096))
        with pytest.raises(DocumentTooLarge, match="4097 bytes, more than the 4096"):
            envelope.open_envelope(self.sealed() + b" " * (4097 - len(self.sealed())))
        assert envelope.open_envelope(self.sealed().ljust(4096)) == b"paper"

    @given(st.text(max_size=20))
    def test_any_payload_text_is_opened_or_refused_with_a_sentence(self, text: str) -> None:
        with contextlib.suppress(MalformedDocument):
            envelope.open_envelope(self.sealed(payload=text))


def test_an_image_expires_at_its_second_and_one_without_never() -> None:
    base = replace(APP, expires=1_000)
    assert statement.expiry(base, now=999) == ()
    assert statement.expiry(base, now=1_060) == ("it expired 60 seconds ago",)
    assert statement.expiry(replace(base, expires=0), now=2**40) == ()
