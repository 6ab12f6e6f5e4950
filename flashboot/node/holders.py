"""Who holds the data, and what can be done about it: pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from flashboot.machine.process import Holder

# They look at disks and go again by themselves; stopping them would help nobody.
PASSING = frozenset(("systemd-udevd.service", "udisks2.service", "mdmonitor.service"))


@dataclass(frozen=True, slots=True)
class Holders:
    """Processes that hold data, by what ends them; those of PASSING units are left out.

    `units` are systemd's and are stopped; `people` are processes of login sessions or of no unit;
    `barred` may not be ended at all, and each says why.
    """

    units: tuple[str, ...]
    people: tuple[Holder, ...]
    barred: tuple[str, ...]


def sort(holders: Sequence[Holder], *, own_unit: str | None, kept: Collection[str] = ()) -> Holders:
    """Sort `holders`; the unit we run in ourselves, and those in `kept`, are barred."""
    units: dict[str, None] = {}
    people: list[Holder] = []
    barred: list[str] = []
    for holder in holders:
        if holder.pid == 1:
            barred.append(f"{holder} is PID 1")
        elif holder.unit is None or _is_session(holder.unit):
            people.append(holder)
        elif holder.unit == own_unit:
            barred.append(f"{holder} runs in the same unit as flashboot")
        elif holder.unit in kept:
            barred.append(f"{holder} is to be kept")
        elif holder.unit not in PASSING:
            units[holder.unit] = None
    return Holders(tuple(units), tuple(people), tuple(barred))


def _is_session(unit: str) -> bool:
    # systemd-logind(8), user@.service(5): stopping one logs a person out.
    return (unit.startswith("session-") and unit.endswith(".scope")) or unit.startswith("user@")
