"""Builds the RAM OS: Debian's cloud kernel and an initramfs with Python, our flasher and a door.

    .venv/bin/python live-initramfs/build.py --output DIR [--cache DIR] [--json]

Writes DIR/vmlinuz, DIR/initramfs and DIR/ramos.json. No maintainer script runs, nothing is
mounted, root is not needed; the same inputs give the same bytes. README.md beside this file says
what is in it and how it starts.

The initramfs is two zstd frames, which the kernel unpacks one after the other: `base` (Debian's
packages and the wheels, slow to build, rarely changes) and `own` (what is in this repository).
Each is cached under the digest of all that it is made from.
"""

import argparse
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

import zstandard
from debian import BuildError, Tree, download, resolve, run, unpack
from elf import is_elf, needed, stripped
from modules import load_order, modinfo, module_name

from flashboot import cpio

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent

# Quiet while the kernel starts (a serial line is slow), phases are seen once init sets the level.
# panic, oops: whatever stops the kernel restarts the machine, which boots OLD before the point of
# no return. io_timeout: EBS asks for the largest value, a volume may stall and come back (AWS,
# "Amazon EBS volumes and NVMe", I/O operation timeout). noautodetect: no array is ever assembled.
COMMAND_LINE = (
    "console=tty0 console=ttyS0,115200 loglevel=5 panic=10 oops=panic "
    "nvme_core.io_timeout=4294967295 raid=noautodetect"
)

KERNEL = "linux-image-cloud-amd64"  # its first dependency is the kernel of the day
PACKAGES = (
    "busybox-static",
    "ca-certificates",
    "dropbear-bin",
    "libbz2-1.0",
    "libc6",
    "libcrypt1",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "libgmp10",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "libtomcrypt1",
    "libtommath1",
    "libuuid1",
    "python3.11-minimal",
    "zlib1g",
)
WHEELS = ("botocore", "jmespath", "python-dateutil", "six", "urllib3", "zstandard")

# NVMe and ext4 are built into the cloud kernel. Loaded at start, in this order:
DRIVERS = ("virtio_pci", "virtio_net", "ena", "ixgbevf", "xen-blkfront", "xen-netfront")
# There for whoever asks with modprobe or mount; nothing here does.
SPARE_MODULES = ("raid0", "softdog", "efivarfs")

# What the flasher is made of: none of cli, publish, node.
CLOSURE = (
    "__init__.py",
    "errors.py",
    "units.py",
    "cpio.py",
    "handoff.py",
    "record.py",
    "image",
    "store",
    "machine",
    "cloud",
    "flasher",
)

STDLIB = "usr/lib/python3.11/"
SITE = "usr/lib/flashboot/"
# busybox's programs that are there by name: what init calls and what a rescuer wants.
APPLETS_FILE = HERE / "applets.txt"
STDLIB_DROPS_FILE = HERE / "left-out.txt"
STDLIB_DROPS = frozenset(STDLIB_DROPS_FILE.read_text().split())
EXTENSION_DROPS = re.compile(
    r"(_codecs_(cn|hk|iso2022|jp|kr|tw)|_crypt|_curses\w*|_dbm|_gdbm|_lsprof|_multibytecodec|"
    r"_sqlite3|_tkinter|_test\w*|_xx\w*|audioop|nis|ossaudiodev|readline|xxlimited\w*)\.cpython"
)
# botocore's models of 400 services are 31 MB; these are called, in their newest version.
BOTOCORE_SERVICES = ("s3", "ec2", "sts")
BOTOCORE_DATA = re.compile(
    rf"botocore/data/(({'|'.join(BOTOCORE_SERVICES)})/[0-9-]+/(?!examples).*|[^/]+\.json)"
)

CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
# Measured on two cores, 36.6 MiB: level 3 gives 14.9 MiB in 0.2 s, 10: 13.7 in 0.7 s, 15: 13.5 in
# 4 s, 19: 12.3 in 17 s; all unpack alike. Downtime does not see a tenth of the size, a build does.
LEVEL = 10

KEPT = 6  # cached parts of a kind, so that going to and fro between branches stays quick

# Shared objects and kernel modules


def link_closure(tree: Tree, offered: Tree) -> Tree:
    """The shared objects out of `offered` that the programs in `tree` need, directly or not."""
    # Looked up in the one place where Debian's loader looks without a cache file.
    place = "usr/lib/x86_64-linux-gnu/"
    found: Tree = {}
    # Loaded by name when a thread ends (glibc, pthread_exit), so no program says it.
    queue = ["libgcc_s.so.1"]
    queue += [name for entry in tree.values() if is_elf(entry.data) for name in needed(entry.data)]
    while queue:
        path = place + queue.pop()
        if path in found:
            continue
        entry = offered.get(path)
        while entry is not None and stat.S_ISLNK(entry.mode):
            entry = offered.get(str(PurePosixPath(entry.name).parent / entry.data.decode()))
        if entry is None:
            raise BuildError(f"no package of the RAM OS holds {path}")
        found[path] = cpio.file(path, stripped(entry.data), 0o755)
        queue += needed(entry.data)
    return found


def module_files(kernel: Tree, release: str) -> Tree:
    """The modules of the RAM OS, with the two lists that busybox's modprobe reads."""
    root = f"usr/lib/modules/{release}/"
    modules = {
        module_name(path): modinfo(path, entry.data)
        for path, entry in kernel.items()
        if path.endswith(".ko")
    }
    lines = kernel[root + "modules.builtin"].data.decode().split()
    builtin = frozenset(module_name(line) for line in lines)
    order = load_order((*DRIVERS, *SPARE_MODULES), modules, builtin)
    depends, aliases = "", ""
    for name in order:
        module = modules[name]
        # modprobe wants the nearest first and all of them.
        before = reversed(load_order((name,), modules, builtin)[:-1])
        paths = [modules[other].path.removeprefix(root) for other in before]
        depends += f"{module.path.removeprefix(root)}: {' '.join(paths)}\n"
        aliases += "".join(f"alias {alias} {name}\n" for alias in module.aliases)
    kept = [cpio.file(modules[name].path, modules[name].data) for name in order]
    kept.append(cpio.file(root + "modules.dep", depends.encode()))
    kept.append(cpio.file(root + "modules.alias", aliases.encode()))
    kept.append(cpio.file("etc/flashboot/drivers", (" ".join(DRIVERS) + "\n").encode()))
    return {entry.name: entry for entry in kept}


# Python


def keep_of_stdlib(path: str) -> bool:
    """Whether a file below the standard library's directory belongs into the RAM OS."""
    rest = path.removeprefix(STDLIB)
    top = rest.split("/")[0].removesuffix(".py")
    if top == "lib-dynload":
        return not EXTENSION_DROPS.search(rest)
    return top not in STDLIB_DROPS and "/test" not in rest and rest.endswith(".py")


def keep_of_wheel(path: str) -> bool:
    """Whether a file of a wheel belongs into the RAM OS."""
    if path.startswith("botocore/data/"):
        return BOTOCORE_DATA.fullmatch(path) is not None
    if path.startswith("zstandard/"):
        return "cffi" not in path and path.endswith((".py", ".so"))
    return path.endswith((".py", ".so", ".json", ".gz"))


def old_models(paths: Iterable[str]) -> set[str]:
    """The botocore models among `paths` of which there is a newer version."""
    versions: dict[str, set[str]] = {}
    for path in paths:
        if match := re.match(r"botocore/data/([^/]+)/([0-9-]+)/", path):
            versions.setdefault(match[1], set()).add(match[2])
    newest = {f"{service}/{max(found)}" for service, found in versions.items()}
    return {
        path
        for path in paths
        if (match := re.match(r"botocore/data/([^/]+/[0-9-]+)/", path)) and match[1] not in newest
    }


def wheel_files(name: str) -> Tree:
    """The files of an installed wheel, below our directory."""
    files: Tree = {}
    listed = [path for path in importlib.metadata.files(name) or [] if ".." not in path.parts]
    old = old_models([str(path) for path in listed])
    for path in listed:
        if keep_of_wheel(str(path)) and str(path) not in old:
            data = Path(str(path.locate())).read_bytes()
            where = SITE + str(path)
            files[where] = cpio.file(where, stripped(data) if is_elf(data) else data)
    return files


def compiled(tree: Tree, *, keep_source: bool) -> Tree:
    """`tree` with its .py files compiled; without their source, .pyc files take their place.

    Never checked against the source at import: no file of the RAM OS changes (PEP 552).
    """
    with tempfile.TemporaryDirectory() as name:
        sources = {path: entry for path, entry in tree.items() if path.endswith(".py")}
        for path, entry in sources.items():
            target = Path(name, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(entry.data)
        command = [sys.executable, "-m", "compileall", "-q", "-j", "2", "-s", name, "-p", "/"]
        command += ["--invalidation-mode", "unchecked-hash", *(["-b"] * (not keep_source)), name]
        # Sets of constants are stored in the order of their hashes.
        run(*command, cwd=Path(name), env={**os.environ, "PYTHONHASHSEED": "0"})
        result = tree if keep_source else {p: e for p, e in tree.items() if p not in sources}
        found = {str(file.relative_to(name)): file for file in Path(name).rglob("*.pyc")}
        if len(found) != len(sources):
            raise BuildError(f"{len(sources)} Python files gave {len(found)} compiled ones")
        return result | {path: cpio.file(path, file.read_bytes()) for path, file in found.items()}


# The two parts


def base_tree(debs: Mapping[str, Path], release: str) -> Tree:
    """All that comes from Debian and from wheels."""
    kernel = unpack(
        debs[f"linux-image-{release}"],
        lambda path: path.endswith((".ko", "/modules.builtin")),
    )
    offered: Tree = {}
    for name in PACKAGES:
        offered |= unpack(
            debs[name], lambda path: not re.match(r"usr/share/(?!ca-cert)|usr/lib/.*/gconv/", path)
        )
    programs = ("busybox", "python3.11", "dropbear", "dropbearkey", "dropbearconvert")
    tree: Tree = {
        path: cpio.file(path, stripped(entry.data), 0o755)
        for path, entry in offered.items()
        if re.match(r"usr/s?bin/", path) and PurePosixPath(path).name in programs
    }
    python: Tree = {
        path: entry
        for path, entry in offered.items()
        if path.startswith(STDLIB) and stat.S_ISREG(entry.mode) and keep_of_stdlib(path)
    }
    for name in WHEELS:
        python |= wheel_files(name)
    tree |= compiled(python, keep_source=False)
    tree |= link_closure(tree, offered)
    tree |= module_files(kernel, release)
    tree[CA_BUNDLE] = cpio.file(CA_BUNDLE, certificates(offered))
    return tree | {entry.name: entry for entry in _skeleton()}


def certificates(offered: Tree) -> bytes:
    """The bundle that update-ca-certificates would make of Mozilla's list."""
    folder = "usr/share/ca-certificates/mozilla/"
    paths = sorted(path for path in offered if path.startswith(folder) and path.endswith(".crt"))
    if not paths:
        raise BuildError("ca-certificates holds no certificate")
    return b"".join(offered[path].data.rstrip(b"\n") + b"\n" for path in paths)


def _skeleton() -> list[cpio.Entry]:
    loader = "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    links = {
        "bin": "usr/bin",
        "sbin": "usr/sbin",
        "lib": "usr/lib",
        "lib64": "usr/lib64",
        "usr/lib64/ld-linux-x86-64.so.2": loader,
        "usr/bin/python3": "python3.11",
        "usr/sbin/modprobe": "../bin/busybox",  # where the kernel looks for it
        **{f"usr/bin/{name}": "busybox" for name in APPLETS_FILE.read_text().split()},
        # Where OpenSSL and botocore look for certificates.
        "usr/lib/ssl/cert.pem": "/" + CA_BUNDLE,
        SITE + "botocore/cacert.pem": "/" + CA_BUNDLE,
    }
    files = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": "root:x:0:\ntty:x:5:\n",
        "etc/shells": "/bin/sh\n",
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/nsswitch.conf": "hosts: files dns\n",
    }
    return [
        *(cpio.symlink(name, target) for name, target in links.items()),
        *(cpio.file(name, text.encode()) for name, text in files.items()),
        *(cpio.directory(name) for name in ("dev", "proc", "sys", "run", "var", "mnt")),
        cpio.directory("root", 0o700),
        cpio.directory("tmp", 0o1777),
        cpio.character_device("dev/console", 5, 1),
    ]


def closure_files(package: Path) -> list[Path]:
    """The Python files of the flasher's closure, relative to flashboot/, in order."""
    found: list[Path] = []
    for name in CLOSURE:
        place = package / name
        found += place.rglob("*.py") if place.is_dir() else [place] if place.exists() else []
    return sorted(path.relative_to(package) for path in found)


def own_sources() -> dict[str, bytes]:
    """All that comes from this repository, by path in the RAM OS."""
    package = REPOSITORY / "flashboot"
    files = {
        f"{SITE}flashboot/{path}": (package / path).read_bytes() for path in closure_files(package)
    }
    for name, where in (
        ("init", "init"),
        ("dhcp", SITE + "dhcp"),
        ("clock.py", SITE + "clock.py"),
        ("profile", "root/.profile"),
    ):
        files[where] = (HERE / name).read_bytes()
    return files


def own_tree(sources: Mapping[str, bytes], version: str) -> Tree:
    """Our part: the flasher with its source, for the sake of tracebacks on a rescue console."""
    programs = ("init", SITE + "dhcp")
    files = {**sources, "etc/flashboot/version": version[:12].encode() + b"\n"}
    entries = (cpio.file(p, d, 0o755 if p in programs else 0o644) for p, d in files.items())
    # Directories of both parts are unpacked twice; the later mode counts.
    tree = {entry.name: entry for entry in (*entries, cpio.directory("root", 0o700))}
    return compiled(tree, keep_source=True)


# The whole


def frame(tree: Tree) -> bytes:
    """`tree` as a cpio archive in one zstd frame, padded as the next archive needs it."""
    archive = cpio.pack(cpio.with_parents(tree.values()))
    packed = zstandard.ZstdCompressor(level=LEVEL, threads=2).compress(archive)
    return packed + bytes(-len(packed) % 4)


def digest_of(parts: Iterable[str | bytes]) -> str:
    """One digest over parts, told apart by their lengths."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        total.update(len(raw).to_bytes(8, "little") + raw)
    return total.hexdigest()


def cached(path: Path, make: Callable[[], bytes]) -> bytes:
    """The bytes at `path`, made and kept there where they are missing, beside a few older ones."""
    if path.exists():
        return path.read_bytes()
    data = make()
    write(path, data)
    kind = path.name.partition("-")[0]
    older = sorted(path.parent.glob(f"{kind}-*"), key=lambda other: other.stat().st_mtime)
    for other in older[:-KEPT]:
        other.unlink(missing_ok=True)
    return data


def write(path: Path, data: bytes) -> None:
    """A whole file or none, also if two builds run at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as target:
        target.write(data)
    Path(target.name).chmod(0o644)
    Path(target.name).replace(path)


def build(output: Path, cache: Path) -> dict[str, object]:
    """Write the RAM OS to `output` and say what it is."""
    if sys.implementation.cache_tag != "cpython-311":
        raise BuildError(f"needs Debian's Python 3.11, not {sys.implementation.cache_tag}")
    cache.mkdir(parents=True, exist_ok=True)
    packages = resolve(KERNEL, PACKAGES, cache)
    release = packages[0].name.removeprefix("linux-image-")
    wheels = {name: importlib.metadata.distribution(name) for name in WHEELS}
    made_from: list[str | bytes] = [sys.version, zstandard.__version__]
    recipe = (*sorted(HERE.glob("*.py")), Path(cpio.__file__))
    made_from += [path.read_bytes() for path in recipe]
    made_from += [path.read_bytes() for path in (APPLETS_FILE, STDLIB_DROPS_FILE)]
    made_from += [package.sha256 for package in packages]
    made_from += [wheel.read_text("RECORD") or "" for wheel in wheels.values()]
    base_key = digest_of(made_from)
    sources = own_sources()
    made_from = [base_key]
    for where, data in sorted(sources.items()):
        made_from += [where, data]
    version = digest_of(made_from)
    # The packages are fetched and opened only if something has to be made of them.
    debs = functools.cache(lambda: download(packages, cache))
    boot = f"boot/vmlinuz-{release}"
    kernel = cached(
        cache / f"kernel-{packages[0].sha256}",
        lambda: unpack(debs()[packages[0].name], lambda path: path == boot)[boot].data,
    )
    initramfs = cached(
        cache / f"base-{base_key}", lambda: frame(base_tree(debs(), release))
    ) + cached(cache / f"own-{version}", lambda: frame(own_tree(sources, version)))
    result: dict[str, object] = {
        "kernel": {"sha256": hashlib.sha256(kernel).hexdigest(), "length": len(kernel)},
        "initramfs": {"sha256": hashlib.sha256(initramfs).hexdigest(), "length": len(initramfs)},
        "kernel_release": release,
        "command_line": COMMAND_LINE,
        "packages": {package.name: package.version for package in packages},
        "wheels": {name: wheel.version for name, wheel in wheels.items()},
    }
    write(output / "vmlinuz", kernel)
    write(output / "initramfs", initramfs)
    write(output / "ramos.json", json.dumps(result, indent=2).encode() + b"\n")
    return result


def main(arguments: list[str]) -> int:
    """The command; 0 if the RAM OS stands in its directory."""
    parser = argparse.ArgumentParser(prog="build.py", description="Build the RAM OS.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--cache", type=Path, default=REPOSITORY / ".cache/ramos", metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print ramos.json")
    options = parser.parse_args(arguments)
    try:
        result = build(options.output.resolve(), options.cache.resolve())
    except (BuildError, LookupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{options.output}/vmlinuz and initramfs, kernel {result['kernel_release']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
