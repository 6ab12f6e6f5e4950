"""Flashes that must not happen: each ends in OLD with its bytes unchanged, and says why."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.rig.cloud import Cloud
from tests.rig.node import DATA_SERIAL, Node, file_digest
from tests.rig.prepare import Parts
from tests.vm.conftest import IMAGE

RAM_OS = r"flashboot: RAM OS"


@contextmanager
def wrong_chunk(cloud: Cloud) -> Iterator[None]:
    """One bit of every pack is flipped, behind the store's back."""
    keys = cloud.keys("packs/")
    before = {key: cloud.object(key) for key in keys}
    for key, data in before.items():
        middle = len(data) // 2
        cloud.put_object(key, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    yield
    for key, data in before.items():
        cloud.put_object(key, data)


@contextmanager
def forbidden(cloud: Cloud) -> Iterator[None]:
    """The instance's role may do nothing any more."""
    instance = cloud.imds.instance
    allowed = instance.credentials
    instance.credentials = lambda: cloud.seaweed.role_credentials("nobody")
    yield
    instance.credentials = allowed


@contextmanager
def silent(cloud: Cloud) -> Iterator[None]:
    """S3 takes connections and says nothing."""
    with cloud.seaweed.paused():
        yield


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (wrong_chunk, "is wrong in the store"),
        (forbidden, "refuses access"),
        (silent, "did not answer"),
    ],
)
def test_a_fault_before_the_first_write_ends_in_old(
    cloud: Cloud,
    node: Node,
    fault: Callable[[Cloud], AbstractContextManager[None]],
    said: str,
) -> None:
    node.run(f"flashboot stage --image {IMAGE} --patience 20")
    mark = node.qemu.mark()
    flash = node.flash()
    quiet = node.wait_quiet(after=mark)
    with fault(cloud):
        node.qemu.wait_for(RAM_OS, timeout_seconds=180, after=mark)
        digest, start = file_digest(node.root), node.look()
        reason, end = node.wait_restart(timeout_seconds=300)
        assert reason == "guest-reset"
        assert file_digest(node.root) == digest
        assert start.counters[node.root_serial].writes == end.counters[node.root_serial].writes
        assert quiet.counters[DATA_SERIAL].writes == end.counters[DATA_SERIAL].writes
        assert quiet.data_digest == end.data_digest
    outcome = node.qemu.wait_for(
        "outcome: returned to the old system", timeout_seconds=1, after=mark
    )
    assert said in outcome.text
    flash.join(60)
    assert "OLD serves" in node.boot().text
    assert node.premounts[-1].data_digest == quiet.data_digest
    assert node.wait_arrived() == "active"  # being the old system is no failure of it
    status = node.run("flashboot status --json")
    told = json.loads(status.stdout)
    assert "old system" in told["text"]
    assert said in told["text"]  # by the record, or by the tags where it could not be stored
    assert cloud.tags()["flashboot:state"] == "returned"
    assert said in cloud.tags()["flashboot:record"]


def test_an_image_that_does_not_fit_is_not_staged(
    cloud: Cloud, node: Node, parts: Parts, tmp_path: Path
) -> None:
    big = tmp_path / "big.raw"
    big.write_bytes(parts.images.new.read_bytes())
    with big.open("r+b") as file:
        file.truncate(file.seek(0, 2) + (64 << 20))
    cloud.flashboot("image", "publish", big, "--name", "app-big", "--ramos", parts.ramos)
    refused = node.run("flashboot stage --image app-big --json", check=False)
    assert refused.returncode == 50
    assert "the device only" in refused.stderr
    assert node.run("cat /sys/kernel/kexec_loaded").stdout.strip() == "0"
    status = json.loads(node.run("flashboot status --json").stdout)
    assert "app-big" not in status["text"]


def test_cancel_undoes_stage(node: Node) -> None:
    node.run(f"flashboot stage --image {IMAGE}")
    assert node.run("cat /sys/kernel/kexec_loaded").stdout.strip() == "1"
    node.run("flashboot cancel")
    assert node.run("cat /sys/kernel/kexec_loaded").stdout.strip() == "0"
    assert node.run("flashboot flash --unprotected --yes", check=False).returncode == 51


def test_a_reboot_of_a_staged_node_is_no_flash(node: Node) -> None:
    node.run(f"flashboot stage --image {IMAGE}")
    mark = node.qemu.mark()
    # What newer systemd does at `reboot` when a kernel is loaded; Debian 12's restarts by firmware.
    node.run("systemctl kexec", check=False)
    node.qemu.wait_for(RAM_OS, timeout_seconds=180, after=mark)
    start = node.look()
    reason, end = node.wait_restart(timeout_seconds=300)
    assert reason == "guest-reset"
    node.qemu.wait_for("nobody said `flashboot flash`", timeout_seconds=1, after=mark)
    assert start.counters[node.root_serial].writes == end.counters[node.root_serial].writes
    assert "OLD serves" in node.boot().text


def test_a_hook_that_says_no_keeps_the_node_serving(node: Node) -> None:
    node.run(f"flashboot stage --image {IMAGE}")
    hooks = "/etc/flashboot/hooks.d/before-flash"
    node.run(
        f"mkdir -p {hooks} && printf '#!/bin/sh\\nexit 7\\n' > {hooks}/no && chmod +x {hooks}/no"
    )
    try:
        stayed = node.run("flashboot flash --unprotected --yes", check=False)
    finally:
        node.run(f"rm {hooks}/no")
    assert stayed.returncode == 52
    assert "code 7" in stayed.stderr
    assert node.run("systemctl is-active rig-db.service").stdout.strip() == "active"
    node.run("flashboot cancel")


def test_a_login_that_uses_the_data_is_named_and_everything_comes_back(node: Node) -> None:
    node.run(f"flashboot stage --image {IMAGE}")
    holder = "systemd-run --quiet --scope --unit=session-9 sh -c 'cd /data && sleep 120'"
    node.run(f"{holder} </dev/null >/dev/null 2>&1 &")
    node.run("until grep -q session-9 /proc/[0-9]*/cgroup; do :; done")
    stayed = node.run("flashboot flash --unprotected --yes", check=False)
    node.run("systemctl stop session-9.scope; flashboot cancel")
    assert stayed.returncode == 52, stayed.stderr
    assert "sleep" in stayed.stderr
    assert node.run("systemctl is-active rig-db.service").stdout.strip() == "active"
    assert node.run("findmnt --noheadings --output OPTIONS /data").stdout.startswith("rw")


def test_the_rescue_door_opens_with_the_nodes_own_keys(cloud: Cloud, node: Node) -> None:
    known = node.host_key()
    node.run(f"flashboot stage --image {IMAGE} --patience 60")
    mark = node.qemu.mark()
    flash = node.flash()
    node.wait_quiet(after=mark)
    with silent(cloud):
        node.qemu.wait_for("rescue door on port 22", timeout_seconds=180, after=mark)
        flash.join(60)
        node.ssh.disconnect()
        node.ssh.wait(timeout_seconds=60)
        assert node.run("cat /proc/sys/kernel/hostname").stdout.strip() == "flashboot"
        assert node.run("cat /sys/block/nvme1n1/ro").stdout.strip() == "1"
        assert node.host_key() == known
        node.wait_restart(timeout_seconds=300)
    node.boot()
    assert node.run("head -n 1 /etc/rig-release").stdout.strip() == "NAME=OLD"


def test_nothing_of_a_run_holds_a_secret(cloud: Cloud, node: Node) -> None:
    secret = cloud.seaweed.role_credentials()["SecretAccessKey"]
    records = b"".join(cloud.object(key) for key in cloud.keys("records/"))
    assert records
    private = node.run("sed -n 2p /etc/ssh/ssh_host_ed25519_key").stdout.strip()
    console = (node.directory / "console.log").read_text(encoding="utf-8", errors="replace")
    for text in (records.decode(), console, json.dumps(cloud.tags())):
        assert private not in text
        assert secret not in text
        assert "SecretAccessKey" not in text
