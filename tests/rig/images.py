"""Builds the rig's disk images: OLD and NEW, two real Debian systems, and data disks.

    python -m tests.rig.images build [--output DIR] [--refresh]
    python -m tests.rig.images data FILE [--mib N]

Each image boots from BIOS and from UEFI, has GRUB, GPT and ext4, and flashboot in it as
packer/install.sh puts it there. NEW is OLD's filesystem with some files changed: like two AMIs
from one pipeline, they share most bytes. Needs root (owners and devices of the tree) but mounts
nothing and needs no loop devices.

Cached below `.cache/images`: `userland-*` is Debian's part, made once; everything else takes
seconds and is made anew whenever one of its sources changes.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.rig.layout import (
    MIB,
    SECTOR,
    Layout,
    boot_sector,
    core_config,
    core_image,
    fstab,
    grub_config,
    identity,
    layout,
    sgdisk_arguments,
)

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache" / "images"
GUEST = Path(__file__).resolve().parent / "guest"
IMAGE_SIZE = 640 * MIB
DATA_SIZE = 128 * MIB

SUITE = "bookworm"
# fmt: off
PACKAGES = (
    "ca-certificates", "dbus", "e2fsprogs", "iproute2", "kexec-tools", "kmod", "lvm2", "mdadm",
    "openssh-server", "python3", "systemd", "systemd-sysv", "udev", "usr-is-merged",
)
_LEFT_OUT = (
    "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*",
    "/lib/udev/hwdb.d/*", "/usr/lib/udev/hwdb.d/*",
)
# Timers and services that only cost time here; fstrim and e2scrub would even touch the data disk.
_MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "getty@tty1.service", "systemd-pstore.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-binfmt.service",
    "modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service",
    "modprobe@fuse.service", "modprobe@loop.service", "modprobe@efi_pstore.service",
    "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "kexec-load.service",
    "kexec.service", "systemd-network-generator.service", "systemd-machine-id-commit.service",
    "proc-sys-fs-binfmt_misc.automount", "systemd-journal-flush.service", "keyboard-setup.service",
    "systemd-hwdb-update.service", "systemd-sysusers.service", "systemd-firstboot.service",
    "systemd-modules-load.service", "lvm2-monitor.service", "blk-availability.service",
    "mdcheck_start.timer", "mdcheck_continue.timer", "mdmonitor-oneshot.timer",
    "ldconfig.service", "systemd-udev-settle.service",
)
_ENABLED = (
    "systemd-networkd.service", "rig-db.service", "rig-premount.service", "rig-ready.service",
)
# Any fixed time: what the tools stamp must not differ from build to build.
_EPOCH = "1700000000"
_KEPT_BUILDS = 3
_GRUB_MODULES = (
    "part_gpt", "ext2", "search_fs_uuid", "normal", "linux", "serial", "terminal", "configfile",
    "echo",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Images:
    """A finished build; the files are shared: write to copies or snapshots only."""

    directory: Path
    old: Path
    new: Path
    key: Path
    """The private key that root@guest accepts."""


def build(cache: Path = CACHE, *, refresh: bool = False) -> Images:
    """Both images from the cache, or built. `refresh` fetches Debian's packages again."""
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        key, host_key = _key(cache / "id_ed25519"), _key(cache / "ssh_host_ed25519_key")
        userland = _userland(cache, refresh=refresh)
        directory = cache / f"images-{_digest(userland, key, host_key)}"
        if not directory.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix="work-") as name:
                work = Path(name)
                _assemble(work, userland / "root", key, host_key)
                (work / "images").rename(directory)
            _forget(cache, keep=directory)
        os.utime(directory)
    return Images(directory, directory / "OLD.raw", directory / "NEW.raw", key)


def make_root_disk(image: Path, path: Path, *, size: int) -> None:
    """A volume of `size` bytes made from an image, as EC2 makes one: the image, then zeroes."""
    _run("cp", "--sparse=always", "--reflink=auto", image, path)
    os.truncate(path, size)


def make_data_disk(path: Path, *, size: int = DATA_SIZE, segments: int = 24) -> None:
    """An ext4 filesystem labelled `data` with `segments` files of 2 MiB; always the same bytes."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="data-") as name:
        database = Path(name) / "db"
        database.mkdir(mode=0o755)
        sums = []
        for number in range(segments):
            content = random.Random(f"segment {number}").randbytes(2 * MIB)
            (database / f"segment-{number:02}").write_bytes(content)
            sums.append(f"{hashlib.sha256(content).hexdigest()}  segment-{number:02}\n")
        (database / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
        _same_times(Path(name))
        path.unlink(missing_ok=True)
        _make_filesystem(path, Path(name), label="data", what="data", size=size)


def _userland(cache: Path, *, refresh: bool) -> Path:
    """The directory with Debian's `root` and `packages`, the list of what is in it."""
    hook = GUEST / "kernel.sh"
    recipe = "\n".join([SUITE, *PACKAGES, *_LEFT_OUT, hook.read_text(encoding="utf-8")])
    directory = cache / f"userland-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    if refresh:
        shutil.rmtree(directory, ignore_errors=True)
    if not directory.exists():
        with tempfile.TemporaryDirectory(dir=cache, prefix="work-") as name, _timed("userland"):
            root = Path(name) / "userland" / "root"
            # mmdebstrap wants world-readable parents for apt's own user.
            Path(name).chmod(0o755)
            root.parent.mkdir()
            argv: list[str | Path] = ["mmdebstrap", "--quiet", "--mode=root", "--format=directory"]
            argv += ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
            argv += ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]
            argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
            argv += ["--dpkgopt=force-unsafe-io", '--aptopt=Apt::Install-Recommends "false"']
            argv += [f'--customize-hook=sh "{hook}" "$1"', SUITE, root, *_sources()]
            _run(*argv)
            listed = _run("chroot", root, "dpkg-query", "-W")
            kernel = (root / "usr/lib/rig-kernel").read_text(encoding="utf-8")
            (root.parent / "packages").write_text(kernel + listed, encoding="utf-8")
            root.parent.rename(directory)
    return directory


def _sources() -> list[Path]:
    """The host's own list of Debian's mirrors where it has one, else mmdebstrap's default."""
    deb822 = Path("/etc/apt/sources.list.d/debian.sources")
    return [deb822] if deb822.exists() else []


def _digest(userland: Path, key: Path, host_key: Path) -> str:
    """What both images are made of, in 16 characters."""
    state = hashlib.sha256((userland / "packages").read_bytes())
    state.update(f"{userland.name} {IMAGE_SIZE} {_EPOCH}".encode())
    sources: list[Path] = [key, host_key, Path(__file__), Path(__file__).parent / "layout.py"]
    for top in (REPOSITORY / "flashboot", REPOSITORY / "happycache", REPOSITORY / "packer", GUEST):
        files = sorted(path for path in top.rglob("*") if path.is_file())
        sources += [p for p in files if p.suffix not in (".pyc", ".md", ".hcl")]
    for path in sources:
        state.update(f"{path.relative_to(REPOSITORY)}\0{path.stat().st_mode:o}\0".encode())
        state.update(hashlib.sha256(path.read_bytes()).digest())
    state.update(" ".join(sorted(p.name for p in _libraries().glob("*.dist-info"))).encode())
    return state.hexdigest()[:16]


def _libraries() -> Path:
    return next((REPOSITORY / ".venv" / "lib").glob("python3.*/site-packages"))


def _assemble(work: Path, userland: Path, key: Path, host_key: Path) -> None:
    """`work`/images with OLD.raw and NEW.raw."""
    tree, images = work / "tree", work / "images"
    images.mkdir()
    with _timed("tree"):
        _run("cp", "-a", "--reflink=auto", userland, tree)
        _furnish(tree, key, host_key)
    kernel = next(p.name for p in (tree / "boot").glob("vmlinuz-*"))
    old, new = (layout(name, size=IMAGE_SIZE) for name in ("OLD", "NEW"))
    with _timed("OLD"):
        for path, content in _own_files(old, tree, kernel).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
        image = images / "OLD.raw"
        root = work / "root.ext4"
        _make_filesystem(root, tree, label="root", what="OLD/filesystem", size=old.root.size)
        _make_disk(image, root, old, work)
    with _timed("NEW"):
        _renew(root, _own_files(new, tree, kernel), new, work)
        _make_disk(images / "NEW.raw", root, new, work)


def _furnish(tree: Path, key: Path, host_key: Path) -> None:
    """What both images have on top of Debian."""
    pack = ["tar", "-C", str(GUEST / "root"), "--owner=0", "--group=0", "--mode=u=rwX,go=rX"]
    with subprocess.Popen([*pack, "-c", "."], stdout=subprocess.PIPE) as packing:
        unpack = ["tar", "-x", "--keep-directory-symlink", "-C", str(tree)]
        subprocess.run(unpack, stdin=packing.stdout, check=True)
    _run(
        *("bash", REPOSITORY / "packer" / "install.sh", "--root", tree),
        *("--libs", _libraries(), "--python", REPOSITORY / ".venv" / "bin" / "python"),
    )
    for stale in (tree / "etc/ssh").glob("ssh_host_*"):
        stale.unlink()
    _install(tree / "etc/ssh/ssh_host_ed25519_key", host_key.read_bytes(), mode=0o600)
    public = key.with_suffix(".pub").read_bytes()
    (tree / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    _install(tree / "root/.ssh/authorized_keys", public, mode=0o600)
    _install(tree / "etc/hostname", b"rig\n")
    _install(tree / "etc/hosts", b"127.0.0.1 localhost rig\n")
    # QEMU's name server on the network of flashboot.machine.qemu.
    _install(tree / "etc/resolv.conf", b"nameserver 169.254.0.3\n")
    # Empty: every boot makes its own, as for any image that is used more than once.
    _install(tree / "etc/machine-id", b"")
    (tree / "data").mkdir(exist_ok=True)
    _run("chroot", tree, "systemctl", "--quiet", "mask", *_MASKED)
    _run("chroot", tree, "systemctl", "--quiet", "enable", *_ENABLED)


def _own_files(plan: Layout, tree: Path, kernel: str) -> dict[str, bytes]:
    """The files that differ between the images, by path without a leading slash."""
    release = (tree / "usr/lib/os-release").read_text(encoding="utf-8").splitlines()
    release = [line for line in release if not line.startswith(("PRETTY_NAME=", "IMAGE_ID="))]
    release += [f'PRETTY_NAME="Debian, rig image {plan.name}"', f"IMAGE_ID=rig-{plan.name.lower()}"]
    application = random.Random("application").randbytes(MIB)
    changed = random.Random(plan.name)
    files = {
        "etc/rig-release": f"NAME={plan.name}\n".encode(),
        "etc/fstab": fstab(plan).encode(),
        "boot/grub/grub.cfg": grub_config(plan, kernel=f"/boot/{kernel}").encode(),
        "usr/lib/os-release": ("\n".join(release) + "\n").encode(),
        # A new version of a program: some of it as it was, some changed, and more of it.
        "opt/application/engine": application + changed.randbytes(2 * MIB),
        "opt/application/assets": changed.randbytes(MIB) + application,
    }
    if plan.name == "NEW":
        files["opt/application/feature"] = changed.randbytes(2 * MIB)
    return files


def _make_filesystem(path: Path, tree: Path, *, label: str, what: str, size: int) -> None:
    """A sparse file with an ext4 that holds `tree`; nothing is left for the guest to initialise."""
    with path.open("wb") as file:
        file.truncate(size)
    options = f"hash_seed={identity(what, 'hash')},lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    _run(
        *("mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-U", _filesystem_id(what)),
        *("-m", "0", "-E", options, "-d", tree, path),
    )


def _filesystem_id(what: str) -> str:
    name, _, rest = what.partition("/")
    return str(identity(name, rest or "filesystem"))


def _renew(root: Path, files: dict[str, bytes], plan: Layout, work: Path) -> None:
    """OLD's filesystem becomes NEW's in place: another identity, some files replaced and added."""
    commands = []
    for number, (path, content) in enumerate(files.items()):
        source = work / f"new-{number}"
        _install(source, content)
        commands += [f"rm /{path}", f"write {source} /{path}"]
    script = work / "debugfs"
    script.write_text("\n".join(commands) + "\n", encoding="utf-8")
    _run("debugfs", "-w", "-f", script, root)
    _run("tune2fs", "-U", str(plan.filesystem), root)
    # debugfs ends with 0 whatever happens: so look.
    for path, content in files.items():
        found = subprocess.run(
            ["debugfs", "-R", f"cat /{path}", root], capture_output=True, check=True
        ).stdout
        if found != content:
            raise RuntimeError(f"/{path} was not written into {plan.name}")
    _run("e2fsck", "-fn", root)


def _make_disk(image: Path, root: Path, plan: Layout, work: Path) -> None:
    """The whole disk: table, GRUB for both kinds of firmware, and the root filesystem."""
    with image.open("wb") as file:
        file.truncate(plan.size)
    _run("sgdisk", *sgdisk_arguments(plan), image)
    config = work / "core.cfg"
    config.write_text(core_config(plan), encoding="utf-8")
    grub = Path("/usr/lib/grub")
    make_core = ["grub-mkimage", "-c", str(config), "-p", "/boot/grub"]
    core = work / "core.img"
    _run(*make_core, "-O", "i386-pc", "-o", core, "biosdisk", *_GRUB_MODULES)
    loader = work / "BOOTX64.EFI"
    _run(*make_core, "-O", "x86_64-efi", "-o", loader, "fat", *_GRUB_MODULES)
    esp = work / "esp.fat"
    _make_esp(esp, loader, plan)
    boot_img = (grub / "i386-pc" / "boot.img").read_bytes()
    start = plan.bios.start
    with image.open("r+b") as disk:
        sector = boot_sector(disk.read(SECTOR), boot_img, core_start=start)
        disk.seek(0)
        disk.write(sector)
        disk.seek(plan.bios.offset)
        disk.write(core_image(core.read_bytes(), core_start=start))
    for source, offset in ((esp, plan.esp.offset), (root, plan.root.offset)):
        _run(
            *("dd", f"if={source}", f"of={image}", "bs=1M", f"seek={offset // MIB}"),
            *("conv=notrunc,sparse", "status=none"),
        )


def _make_esp(path: Path, loader: Path, plan: Layout) -> None:
    """A FAT16 with the loader at the place for removable media: no firmware variable is needed."""
    path.unlink(missing_ok=True)
    serial = f"{identity(plan.name, 'esp').int & 0xFFFFFFFF:08x}"
    os.utime(loader, (int(_EPOCH), int(_EPOCH)))
    _run(
        *("mformat", "-C", "-i", path, "-T", str(plan.esp.sectors), "-h", "64", "-s", "32"),
        *("-H", str(plan.esp.start), "-N", serial, "-v", "ESP", "::"),
    )
    _run("mmd", "-i", path, "::/EFI", "::/EFI/BOOT")
    _run("mcopy", "-m", "-i", path, loader, "::/EFI/BOOT/BOOTX64.EFI")


def _key(path: Path) -> Path:
    """An SSH key pair, made at the first use; it opens rig guests only."""
    if not path.exists():
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "flashboot-rig", "-f", path)
    return path


def _install(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file of its own: what a link led to stays as it was."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _same_times(top: Path) -> None:
    for path in (top, *top.rglob("*")):
        os.utime(path, (int(_EPOCH), int(_EPOCH)))


def _forget(cache: Path, *, keep: Path) -> None:
    """Remove all but the builds used last; a machine that runs from one keeps its open files."""
    builds = sorted(cache.glob("images-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for stale in builds[_KEPT_BUILDS:]:
        if stale != keep:
            shutil.rmtree(stale)


def _run(*argv: str | Path) -> str:
    """Run a tool; RuntimeError with its words when it fails."""
    environment = os.environ | {
        "E2FSPROGS_FAKE_TIME": _EPOCH,
        "SOURCE_DATE_EPOCH": _EPOCH,
        "LC_ALL": "C",
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
    }
    done = subprocess.run(argv, capture_output=True, env=environment, check=False)
    if done.returncode:
        words = (done.stdout[-2000:] + done.stderr[-4000:]).decode(errors="replace")
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {words}")
    return done.stdout.decode(errors="replace")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One build at a time; the second finds the first one's result."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _timed(what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    print(f"images: {what} {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


def main(arguments: Iterable[str] | None = None) -> int:
    """The command; prints where things are."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig.images", description="rig images")
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("build", help="OLD.raw, NEW.raw and the key for root")
    make.add_argument("--output", type=Path, help="also copy them (sparsely) into this directory")
    make.add_argument("--refresh", action="store_true", help="fetch Debian's packages again")
    data = verbs.add_parser("data", help="a data disk")
    data.add_argument("path", type=Path)
    data.add_argument("--mib", type=int, default=DATA_SIZE // MIB)
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.verb == "data":
        make_data_disk(options.path, size=options.mib * MIB)
        print(options.path)
        return 0
    images = build(refresh=options.refresh)
    files = [images.old, images.new, images.key]
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        for file in files:
            _run("cp", "--sparse=always", "--reflink=auto", "-p", file, options.output)
        files = [options.output / file.name for file in files]
    print(*files, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
