"""Debian's packages: which the apt lists offer, fetched, checked and unpacked into memory.

No maintainer script runs, and nothing of the system this runs on is changed but its apt lists.
"""

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flashboot import cpio

Tree = dict[str, cpio.Entry]

LISTS = Path("/var/lib/apt/lists")


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package as the apt lists offer it."""

    name: str
    version: str
    sha256: str
    depends: str


class BuildError(Exception):
    """Why there is no RAM OS, in a sentence."""


def parse_packages(text: str) -> dict[str, Package]:
    """The packages in the answer of `apt-cache show`; the first of a name is the candidate."""
    packages: dict[str, Package] = {}
    for stanza in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.MULTILINE))
        if "Package" in fields and "SHA256" in fields:
            package = Package(
                fields["Package"], fields["Version"], fields["SHA256"], fields.get("Depends", "")
            )
            packages.setdefault(package.name, package)
    return packages


def resolve(kernel: str, names: tuple[str, ...], cache: Path) -> list[Package]:
    """The kernel that `kernel` depends on, then `names`, as the apt lists offer them.

    The answer is kept until the lists change: apt-cache takes a second to open them.
    """
    lists = sorted(LISTS.iterdir()) if LISTS.is_dir() else []
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in lists]
    key = hashlib.sha256(repr((kernel, names, state)).encode()).hexdigest()
    path = cache / f"resolved-{key}.json"
    if path.exists():
        return [Package(**fields) for fields in json.loads(path.read_bytes())]
    offered = _show((kernel, *names), cache)
    match = re.match(r"linux-image-[0-9][^ ,]*", offered[kernel].depends)
    if match is None:
        raise BuildError(f"{kernel} names no kernel: {offered[kernel].depends!r}")
    found = [_show((match[0],), cache)[match[0]], *(offered[name] for name in names)]
    path.write_text(json.dumps([dataclasses.asdict(package) for package in found]))
    return found


def _show(names: tuple[str, ...], cache: Path) -> dict[str, Package]:
    for attempt in range(2):
        answer = subprocess.run(
            ["apt-cache", "show", "--no-all-versions", *names], capture_output=True, text=True
        )
        packages = parse_packages(answer.stdout)
        missing = [name for name in names if name not in packages]
        if not missing:
            return packages
        if attempt == 0:
            _update_lists(cache)
    raise BuildError(f"the apt lists offer no {', '.join(missing)}")


def _update_lists(cache: Path) -> None:
    print("the apt lists are missing or old: apt-get update", file=sys.stderr)
    run("apt-get", "update", "-qq", cwd=cache)


def download(packages: Iterable[Package], cache: Path) -> dict[str, Path]:
    """The .deb of every package by name, in `cache`, fetched where it is not there yet."""
    folder = cache / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {package.name: folder / f"{package.sha256}.deb" for package in packages}
    wanted = [package for package in packages if not paths[package.name].exists()]
    if not wanted:
        return paths
    with tempfile.TemporaryDirectory(dir=cache) as name:
        # apt's own sandbox user may not write below a private directory.
        command = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root"]
        command += [f"{package.name}={package.version}" for package in wanted]
        try:
            run(*command, cwd=Path(name))
        except BuildError:
            # Old lists name files that the mirror has replaced.
            _update_lists(cache)
            run(*command, cwd=Path(name))
        for package in wanted:
            # The file name holds the version with its colon escaped.
            version = urllib.parse.quote(package.version, safe="+~-._")
            [found] = Path(name).glob(f"{package.name}_{version.replace('%3A', '%3a')}_*.deb")
            digest = hashlib.sha256(found.read_bytes()).hexdigest()
            if digest != package.sha256:
                raise BuildError(f"{found.name} has digest {digest}, not {package.sha256}")
            found.rename(paths[package.name])
    return paths


def run(*command: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise BuildError(f"`{' '.join(command[:3])} …` failed: {' '.join(words)}")


def unpack(deb: Path, wanted: Callable[[str], bool]) -> Tree:
    """The wanted files of a package by path, below a merged /usr."""
    files: Tree = {}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as tar:
        with tarfile.open(fileobj=tar.stdout, mode="r|") as archive:
            for member in archive:
                name = merged(member.name)
                if not wanted(name):
                    continue
                if member.issym():
                    files[name] = cpio.symlink(name, member.linkname)
                elif member.isreg():
                    content = archive.extractfile(member)
                    assert content is not None
                    files[name] = cpio.file(name, content.read(), member.mode & 0o755)
                elif member.islnk():
                    raise BuildError(f"{deb.name} holds the hard link {name}")
    if tar.returncode:
        raise BuildError(f"{deb.name} cannot be unpacked")
    return files


def merged(name: str) -> str:
    """The path of a package's file where /bin, /sbin and /lib* are links into /usr."""
    name = str(PurePosixPath(name))
    return re.sub(r"^(?=(bin|sbin|lib|lib64)/)", "usr/", name)
