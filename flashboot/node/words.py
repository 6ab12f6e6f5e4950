"""The flasher's last word on a run: its record's, else what the instance's tags say of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from flashboot.node.runs import Run
from flashboot.record import Event, Kind, Program

DID_NOT_HAPPEN = "the flash did not happen, this is the old system: "
NOT_READY = "not ready: "
# Beside these the flasher's own, of its record and of its tag.
_OPENINGS = (DID_NOT_HAPPEN, NOT_READY, "returned to the old system: ", "returned: ")

# `arrive` writes it when it fails: `failed` takes the place of the flasher's `flashed`.
FLASHED_TAG = "flashed"


@dataclass(frozen=True, slots=True)
class Word:
    """`event` is None where the flasher left no word. Tags have no more than states and digests."""

    event: Event | None = None
    by_tags: bool = False

    @property
    def state(self) -> str:
        """'flashed', 'returned', or '' for neither."""
        return str(self.event.facts.get("state", "")) if self.event else ""


def flasher(run: Run, recorded: Event | None, tags: Mapping[str, str]) -> Word:
    """The outcome in the record, else the one in the tags, else the record's last failure."""
    if recorded is not None and recorded.kind is Kind.OUTCOME:
        return Word(recorded)
    tagged = _tagged(run, tags)
    return Word(tagged, by_tags=True) if tagged else Word(recorded)


def cause(text: str) -> str:
    """`text` without the words with which a program begins it: the next one has its own."""
    for opening in _OPENINGS:
        text = text.removeprefix(opening)
    return text


def _tagged(run: Run, tags: Mapping[str, str]) -> Event | None:
    """What the tags say of this run, as the event that the record would hold."""
    if tags.get("run") != run.name:
        return None
    state = tags.get("state")
    if state == "ready" or (state == "failed" and tags.get(FLASHED_TAG) == run.name):
        state = "flashed"
    if state not in ("flashed", "returned"):
        return None
    facts: dict[str, int | str] = {"state": state}
    if state == "flashed":  # else they may be of an earlier run
        facts |= {name: tags[name] for name in ("image", "digest", "disk_guid") if tags.get(name)}
    text = tags.get("record") or "its tags say no more than its state"
    return Event(0, Program.FLASHER, "report", Kind.OUTCOME, text, facts)
