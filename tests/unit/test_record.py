"""The record: whatever happened can be written, and what was written can be read."""

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot import record
from flashboot.errors import DocumentTooLarge, FlashbootError, MalformedDocument
from flashboot.record import Event, Kind, Program, Record
from flashboot.store.base import is_key
from tests import strategies

EVENT = Event(1_700_000_000_000, Program.FLASHER, "write", Kind.DONE, "", {"bytes_written": 7})
RECORD = Record("run-1", "i-1", (EVENT,))
HEAD = b'{"instance":"i-1","run":"run-1","schema":"flashboot.record/1"}'
LINE = (
    b'{"facts":{"bytes_written":7},"kind":"done","phase":"write","program":"flasher",'
    b'"text":"","time":1700000000000}'
)


def changed(name: str, value: Any) -> bytes:
    """RECORD with one field of its event changed."""
    return HEAD + b"\n" + json.dumps(json.loads(LINE) | {name: value}).encode() + b"\n"


@given(strategies.records)
def test_what_is_written_is_read_back(value: Record) -> None:
    data = record.dump(value)
    assert record.load(data) == value
    assert data.count(b"\n") == 1 + len(value.events)


def test_the_lines_are_the_documented_ones() -> None:
    assert record.dump(RECORD) == HEAD + b"\n" + LINE + b"\n"


@given(
    st.text(max_size=30),
    st.text(max_size=30),
    st.dictionaries(st.text(strategies.LETTERS, max_size=9), st.text(max_size=30), max_size=3),
)
def test_any_text_that_python_can_hold_is_reported(
    text: str, phase: str, facts: dict[str, int | str]
) -> None:
    event = replace(EVENT, text=text, phase=phase, facts=facts)
    (read,) = record.load(record.dump(replace(RECORD, events=(event,)))).events
    assert len(read.text) == len(text)
    assert set(read.facts) == set(facts)


@pytest.mark.parametrize("letter", ["x", "\0", "\U0001f600", "\udcff"])
def test_long_texts_are_cut(letter: str) -> None:
    facts: dict[str, int | str] = {str(number): letter * 10_000 for number in range(64)}
    event = Event(1, Program.NODE, letter * 10_000, Kind.FAILED, letter * 100_000, facts)
    (read,) = record.load(record.dump(replace(RECORD, events=(event,)))).events
    assert len(read.text) == record.MAX_TEXT
    assert read.text.endswith("…")
    assert {len(str(fact)) for fact in read.facts.values()} == {record.MAX_FACT}


def test_a_flag_among_the_facts_becomes_a_number() -> None:
    event = replace(EVENT, facts={"resumed": True})
    (read,) = record.load(record.dump(replace(RECORD, events=(event,)))).events
    assert read.facts == {"resumed": 1}
    assert type(read.facts["resumed"]) is int


def test_of_too_many_events_the_latest_are_kept_and_a_note_says_so() -> None:
    events = [replace(EVENT, time=number, text="x" * 10_000) for number in range(500)]
    events.append(replace(EVENT, kind=Kind.OUTCOME, text="flashed"))
    data = record.dump(replace(RECORD, events=tuple(events)))
    assert len(data) <= record.MAX_BYTES
    read = record.load(data)
    assert read.outcome == events[-1]
    first, *kept = read.events
    assert kept == events[-len(kept) :]
    assert first.kind is Kind.NOTE
    assert first.text == f"{501 - len(kept)} earlier events did not fit and are left out"


def test_the_outcome_is_the_last_word() -> None:
    assert RECORD.outcome is None
    words = [replace(EVENT, kind=Kind.OUTCOME, text=text) for text in ("returned", "flashed")]
    told = replace(RECORD, events=(EVENT, words[0], words[1], EVENT))
    assert told.outcome == words[1]


def test_keys_keep_writers_apart() -> None:
    keys = {record.key("i-1", "run-1", program=program) for program in Program}
    assert keys == {
        "records/i-1/run-1.node",
        "records/i-1/run-1.flasher",
        "records/i-1/run-1.arrive",
    }
    assert all(map(is_key, keys))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "it is empty"),
        (b"\n", "not JSON"),
        (LINE, "schema is missing"),
        (b'{"schema":"flashboot.record/2"}', "schema 'flashboot.record/2' is not known here"),
        (HEAD[:-1] + b',"x":1}', "unknown field 'x'"),
        (b'{"schema":"flashboot.record/1","run":"r"}', "instance is missing"),
        (HEAD + b"\n\n", "not JSON"),
        (HEAD + b"\n" + LINE[:-1], "not JSON"),
        (changed("x", 1), "unknown field 'x'"),
        (changed("program", "robot"), "unknown program or kind"),
        (changed("kind", "maybe"), "unknown program or kind"),
        (changed("kind", None), "kind is missing"),
        (changed("time", -1), "time is -1"),
        (changed("time", True), "time is not a whole number"),
        (changed("facts", []), "facts is not an object"),
        (changed("facts", {"x": 1.5}), "1.5 is not a whole number"),
        (changed("facts", {"x": True}), "numbers and texts"),
        (changed("facts", {"x": {}}), "numbers and texts"),
        (changed("facts", {str(at): 1 for at in range(65)}), "at most 64"),
        (changed("text", "x" * (record.MAX_TEXT + 1)), "text has more than 16384 characters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_records_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(MalformedDocument) as caught:
        record.load(data)
    assert problem in str(caught.value)


def test_lengths_are_capped() -> None:
    with pytest.raises(DocumentTooLarge, match="The record has 4194305 bytes"):
        record.load(b" " * (record.MAX_BYTES + 1))
    with pytest.raises(DocumentTooLarge, match="record's line"):
        record.load(HEAD + b"\n" + b" " * 600_000)


@given(st.binary(max_size=100))
def test_noise_is_refused_with_a_sentence(noise: bytes) -> None:
    for data in (noise, HEAD + b"\n" + noise):
        with contextlib.suppress(FlashbootError):
            record.load(data)


@given(st.sampled_from(sorted(json.loads(LINE))), strategies.json_values)
def test_any_value_in_any_field_is_taken_or_refused_with_a_sentence(name: str, value: Any) -> None:
    with contextlib.suppress(MalformedDocument):
        record.load(changed(name, value))
