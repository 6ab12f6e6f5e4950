"""Kernel modules: what they say of themselves and the order in which they load."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module, with what it says of itself in its .modinfo section."""

    path: str
    data: bytes
    depends: tuple[str, ...]
    aliases: tuple[str, ...]


def modinfo(path: str, data: bytes) -> Module:
    """What the module at `path` says of itself."""

    def values(key: bytes) -> list[str]:
        return [raw.decode() for raw in re.findall(rb"\0" + key + rb"=([^\0]*)", data)]

    soft = [word for line in values(b"softdep") for word in _before(line)]
    hard = [word for line in values(b"depends") for word in line.split(",") if word]
    depends = dict.fromkeys(word.replace("-", "_") for word in (*hard, *soft))
    return Module(path, data, tuple(depends), tuple(values(b"alias")))


def _before(softdep: str) -> list[str]:
    match = re.search(r"pre: (.*?)(?: post:|$)", softdep)
    return match[1].split() if match else []


def module_name(path: str) -> str:
    """A module's name as the kernel spells it: /…/xen-blkfront.ko is xen_blkfront."""
    return PurePosixPath(path).name.removesuffix(".ko").replace("-", "_")


def load_order(
    wanted: Iterable[str], modules: Mapping[str, Module], builtin: frozenset[str]
) -> list[str]:
    """`wanted` and all they depend on by name, each after what it needs."""
    order: dict[str, None] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in order or name in builtin:
            return
        if name in above:
            raise LookupError(f"modules depend on each other: {' > '.join((*above, name))}")
        if name not in modules:
            raise LookupError(f"the kernel has no module {name}")
        for other in modules[name].depends:
            visit(other, (*above, name))
        order[name] = None

    for name in wanted:
        visit(name.replace("-", "_"), ())
    return list(order)
