"""The handoff: what the node writes, the flasher reads; what it would refuse is never written."""

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot import handoff
from flashboot.errors import DigestMismatch, DocumentTooLarge, FlashbootError, MalformedDocument
from flashboot.handoff import Bundle, Handoff, Network, RootDevice
from flashboot.image.protocol import Tail
from flashboot.units import GIB, MIB
from tests import strategies
from tests.strategies import sha256

PLAN = Handoff(
    run="20260101-1",
    instance="i-0123456789abcdef0",
    image="app-42",
    store="s3://images/prod",
    statement_digest=sha256(b"statement"),
    table_digest=sha256(b"table"),
    root=RootDevice("vol1", "Amazon Elastic Block Store", 8 * GIB, 512, "0000:00:04.0", "ab12"),
    network=Network("02:00:00:00:00:01", ntp="169.254.169.123", dns=("10.0.0.2",)),
    staged_at=1_700_000_000,
    cloud={"region": "eu-central-1", "endpoints": {"s3": "https://s3.example"}},
    tail=Tail.ZERO,
)
FIELDS: dict[str, Any] = json.loads(handoff.dump(PLAN))
MISSING = object()


def changed(path: str, value: Any) -> bytes:
    """PLAN's document with the field at `path` (dots between) changed or MISSING."""
    document = json.loads(json.dumps(FIELDS))
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place[name]
    if value is MISSING:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document).encode()


@given(strategies.handoffs)
def test_what_is_written_is_read_back(value: Handoff) -> None:
    data = handoff.dump(value)
    assert handoff.load(data) == value
    assert handoff.dump(handoff.load(data)) == data


@pytest.mark.parametrize(
    "path",
    [
        *FIELDS,
        *(f"root.{name}" for name in FIELDS["root"]),
        *(f"network.{name}" for name in FIELDS["network"]),
    ],
)
def test_each_field_is_needed_and_has_its_type(path: str) -> None:
    with pytest.raises(MalformedDocument, match=f"{path.rpartition('.')[2]} is missing"):
        handoff.load(changed(path, MISSING))
    wrong: Any
    for wrong in (None, [[]], -1, True, 1.5, {"x": 1}):
        with pytest.raises(MalformedDocument):
            handoff.load(changed(path, wrong))


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("x", 1, "unknown field 'x'"),
        ("root.x", 1, "(root) is malformed: unknown field 'x'"),
        ("network.x", 1, "(network) is malformed: unknown field 'x'"),
        ("schema", "flashboot.handoff/2", "schema 'flashboot.handoff/2' is not known here"),
        ("run", "", "'' is not a run's name"),
        ("run", "a/b", "'a/b' is not a run's name"),
        ("run", "a\nb", "is not a run's name"),
        ("run", "x" * 65, "is not a run's name"),
        ("tail", "none", "unknown tail 'none'"),
        ("statement", "ab", "statement is not a SHA-256"),
        ("budget", 16 * MIB, "budget is 16777216, not in"),
        ("patience", 0, "patience is 0, not in 1 to 86400"),
        ("patience", 86401, "patience is 86401"),
        ("network.mac", "02:00:00:00:00", "is not a MAC address"),
        ("network.mac", "02:00:00:00:00:0G", "is not a MAC address"),
        ("network.mac", "AA:00:00:00:00:00", "is not a MAC address"),
        ("network.ntp", "a b", "'a b' is not a host"),
        ("network.ntp", "$(reboot)", "is not a host"),
        ("network.ntp", "a\nFLASHBOOT_RUN=x", "is not a host"),
        ("network.dns", ["x"] * 9, "dns is not a list of at most 8 texts"),
        ("root.size", 0, "size is 0"),
        ("root.sector_size", 256, "sector_size is 256"),
        ("root.serial", "x" * 1025, "serial has more than 1024 characters"),
        ("cloud", {"a": {"b": {"c": ""}}}, "nested once"),
        ("cloud", {str(number): "" for number in range(65)}, "at most 64 texts"),
    ],
)
def test_an_impossible_value_is_refused(path: str, value: Any, problem: str) -> None:
    with pytest.raises(MalformedDocument) as caught:
        handoff.load(changed(path, value))
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "change",
    [
        {"budget": MIB},
        {"staged_at": -1},
        {"store": "x" * 1025},
        {"store": "\udcff"},
        {"statement_digest": b"short"},
        {"root": replace(PLAN.root, size=0)},
        {"network": replace(PLAN.network, dns=("x",) * 9)},
        {"cloud": {str(number): "" for number in range(65)}},
        {"cloud": {"proxy": None}},
    ],
)
def test_what_the_flasher_would_refuse_is_refused_on_the_node(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedDocument):
        handoff.dump(replace(PLAN, **change))


def test_its_length_is_capped_both_ways() -> None:
    with pytest.raises(DocumentTooLarge, match="more than the 65536"):
        handoff.load(b" " * 65537)
    with pytest.raises(DocumentTooLarge, match="more than the 65536"):
        handoff.dump(replace(PLAN, cloud={"no_proxy": "x" * 65536}))


@given(st.binary(max_size=100))
def test_noise_is_refused_with_a_sentence(noise: bytes) -> None:
    with contextlib.suppress(FlashbootError):
        handoff.load(noise)


@given(st.sampled_from(sorted(FIELDS)), strategies.json_values)
def test_any_value_in_any_field_is_taken_or_refused_with_a_sentence(key: str, value: Any) -> None:
    with contextlib.suppress(MalformedDocument):
        handoff.load(changed(key, value))


class TestFiles:
    bundle = Bundle(
        PLAN,
        statement=b"statement",
        table=b"table",
        authorized_keys=b"ssh-ed25519 AAAA guest\n",
        host_keys={"ssh_host_ed25519_key": b"-----BEGIN SECRET"},
        ca_bundle=b"PEM",
    )

    def test_the_files_of_the_archive(self) -> None:
        assert handoff.files(self.bundle) == {
            "flashboot/handoff.json": handoff.dump(PLAN),
            "flashboot/statement": b"statement",
            "flashboot/table": b"table",
            "flashboot/network.env": (
                b"FLASHBOOT_RUN=20260101-1\n"
                b"FLASHBOOT_MAC=02:00:00:00:00:01\n"
                b"FLASHBOOT_NTP=169.254.169.123\n"
                b"FLASHBOOT_DNS=" + ",".join(PLAN.network.dns).encode() + b"\n"
            ),
            "flashboot/ssh/authorized_keys": b"ssh-ed25519 AAAA guest\n",
            "flashboot/ssh/ssh_host_ed25519_key": b"-----BEGIN SECRET",
            "flashboot/ca.pem": b"PEM",
        }

    def test_what_is_not_given_makes_no_file(self) -> None:
        names = handoff.files(Bundle(PLAN, b"statement", b"table"))
        assert sorted(names) == [
            "flashboot/handoff.json",
            "flashboot/network.env",
            "flashboot/statement",
            "flashboot/table",
        ]

    @pytest.mark.parametrize(
        "name", ["", "../x", "ssh_host_key", "ssh_host_rsa_key.pub", "/ssh_host_rsa_key", "id_rsa"]
    )
    def test_only_host_keys_travel_as_host_keys(self, name: str) -> None:
        with pytest.raises(MalformedDocument, match="is not the name of a host key"):
            handoff.files(replace(self.bundle, host_keys={name: b""}))

    def test_a_private_key_is_not_shown(self) -> None:
        assert "SECRET" not in repr(self.bundle)
        assert "SECRET" not in handoff.dump(PLAN).decode()

    @given(strategies.handoffs)
    def test_network_env_always_has_four_plain_lines(self, value: Handoff) -> None:
        files = handoff.files(Bundle(value, b"", b""))
        lines = files["flashboot/network.env"].decode().split("\n")
        assert [line.partition("=")[0] for line in lines] == [
            "FLASHBOOT_RUN",
            "FLASHBOOT_MAC",
            "FLASHBOOT_NTP",
            "FLASHBOOT_DNS",
            "",
        ]
        assert not set("".join(lines)) & set(" $`'\"\\;&|<>()#*?~\t")


def test_the_documents_must_be_the_staged_ones() -> None:
    handoff.check_documents(PLAN, statement=b"statement", table=b"table")
    with pytest.raises(DigestMismatch, match="The statement has digest"):
        handoff.check_documents(PLAN, statement=b"other", table=b"table")
    with pytest.raises(DigestMismatch, match="The chunk table has digest"):
        handoff.check_documents(PLAN, statement=b"statement", table=b"")
