"""Strict JSON: one spelling is written, and nothing doubtful is read."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot.errors import FlashbootError, MalformedDocument
from flashboot.image import document
from flashboot.image.document import Fields
from tests import strategies

TAKE: list[Callable[[Fields], object]] = [
    lambda fields: fields.text("a"),
    lambda fields: fields.number("a"),
    lambda fields: fields.flag("a"),
    lambda fields: fields.texts("a"),
    lambda fields: fields.mapping("a"),
    lambda fields: fields.nested("a"),
    lambda fields: fields.facts("a"),
    lambda fields: fields.digest("a"),
    lambda fields: fields.object("a"),
    lambda fields: fields.objects("a", cap=3),
    Fields.finish,
]


def load(text: str | bytes) -> Fields:
    return document.load(text if isinstance(text, bytes) else text.encode(), what="paper")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a":1,"a":2}', "a key stands twice in one object"),
        ('{"x":{"a":1,"a":1}}', "a key stands twice in one object"),
        ('{"a":1.5}', "1.5 is not a whole number"),
        ('{"a":1e3}', "1e3 is not a whole number"),
        ('{"a":-0.0}', "-0.0 is not a whole number"),
        ('{"a":1e999}', "1e999 is not a whole number"),
        ('{"a":0.' + "1" * 99 + "}", "is not a whole number"),
        ('{"a":NaN}', "NaN is not a whole number"),
        ('{"a":Infinity}', "Infinity is not a whole number"),
        ('{"a":-Infinity}', "-Infinity is not a whole number"),
        ('{"a":' + "9" * 21 + "}", "a number is too long"),
        ('{"a":' + "9" * 100_000 + "}", "a number is too long"),
        ('{"a":' + "[" * 100_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ("[" * 500 + "]" * 500, "not an object"),
        ("", "not JSON"),
        ("{", "not JSON"),
        ("{} {}", "not JSON"),
        ('{"a":1,}', "not JSON"),
        ("{'a':1}", "not JSON"),
        ('{"a":"\n"}', "not JSON"),
        ("\ufeff{}", "not JSON"),
        ("[]", "not an object"),
        ("null", "not an object"),
        ('"text"', "not an object"),
        ("1", "not an object"),
        (b'{"a":"\xff"}', "not JSON"),
        (b"\x00", "not JSON"),
        ('{"a":"\\ud800"}', "not JSON"),
        ('{"\\udfff":1}', "not JSON"),
        ('{"a":["\\udcff"]}', "not JSON"),
    ],
)
def test_refuses_with_a_reason(text: str | bytes, problem: str) -> None:
    with pytest.raises(MalformedDocument) as caught:
        load(text)
    assert problem in str(caught.value)
    assert str(caught.value).startswith("The paper is malformed: ")
    assert len(str(caught.value)) < 300


def test_the_widest_numbers_are_read_exactly() -> None:
    fields = load('{"a":9223372036854775807,"b":-1}')
    assert fields.number("a") == 2**63 - 1
    assert fields.number("b", low=-1) == -1


def test_there_is_one_spelling() -> None:
    assert document.dump({"b": [1, True], "a": "ä\n"}) == '{"a":"ä\\n","b":[1,true]}'.encode()
    assert document.dump({"a": 1, "b": 2}) == document.dump({"b": 2, "a": 1})


def test_half_a_surrogate_pair_cannot_be_written() -> None:
    with pytest.raises(MalformedDocument, match="UTF-8"):
        document.dump({"a": "\udcff"})


@given(st.binary(max_size=60))
def test_noise_is_refused_with_a_sentence(noise: bytes) -> None:
    with contextlib.suppress(FlashbootError):
        load(noise)


@given(st.dictionaries(st.sampled_from("ab"), strategies.json_values), st.sampled_from(TAKE))
def test_any_shape_is_taken_or_refused_with_a_sentence(
    value: dict[str, Any], take: Callable[[Fields], object]
) -> None:
    with contextlib.suppress(MalformedDocument):
        take(load(json.dumps(value)))


@pytest.mark.parametrize(
    ("value", "take", "problem"),
    [
        ({}, lambda f: f.text("a"), "a is missing"),
        ({"a": None}, lambda f: f.text("a"), "a is missing"),
        ({"a": 1}, lambda f: f.text("a"), "a is not a text"),
        ({"a": "xyz"}, lambda f: f.text("a", cap=2), "a has more than 2 characters"),
        ({"a": "1"}, lambda f: f.number("a"), "a is not a whole number"),
        ({"a": True}, lambda f: f.number("a"), "a is not a whole number"),
        ({"a": -1}, lambda f: f.number("a"), "a is -1, not in 0 to"),
        ({"a": 2**63 + 1}, lambda f: f.number("a"), "not in 0 to"),
        ({"a": 0}, lambda f: f.flag("a"), "a is not true or false"),
        ({"a": "x"}, lambda f: f.texts("a"), "a is not a list"),
        ({"a": ["x", 1]}, lambda f: f.texts("a"), "a is not a list of at most 256 texts"),
        ({"a": ["x", "y"]}, lambda f: f.texts("a", cap=1), "at most 1 texts"),
        ({"a": ["x" * 4097]}, lambda f: f.texts("a"), "a is not a list of at most"),
        ({"a": []}, lambda f: f.mapping("a"), "a is not an object"),
        ({"a": {"x": 1}}, lambda f: f.mapping("a"), "a is not an object of at most 64 texts"),
        ({"a": {"x": "", "y": ""}}, lambda f: f.mapping("a", cap=1), "at most 1 texts"),
        ({"a": {"x": {"y": {}}}}, lambda f: f.nested("a"), "nested once"),
        ({"a": {"x": {"y": "", "z": ""}}}, lambda f: f.nested("a", cap=1), "at most 1 texts"),
        ({"a": {"x": True}}, lambda f: f.facts("a"), "numbers and texts"),
        ({"a": {"x": []}}, lambda f: f.facts("a"), "numbers and texts"),
        ({"a": "ab"}, lambda f: f.digest("a"), "a is not a SHA-256 in lower-case hexadecimal"),
        ({"a": "AB" * 32}, lambda f: f.digest("a"), "lower-case"),
        ({"a": "zz" * 32}, lambda f: f.digest("a"), "lower-case"),
        ({"a": " " + "ab" * 32}, lambda f: f.digest("a"), "lower-case"),
        ({"a": "ab " * 32}, lambda f: f.digest("a"), "lower-case"),
        ({"a": "ab" * 33}, lambda f: f.digest("a"), "lower-case"),
        ({"a": []}, lambda f: f.object("a"), "a is not an object"),
        ({"a": [1]}, lambda f: f.objects("a", cap=3), "a is not a list of at most 3 objects"),
        ({"a": [{}, {}]}, lambda f: f.objects("a", cap=1), "at most 1 objects"),
        ({"zz": 1, "b": 1}, lambda f: f.finish(), "unknown field 'b'"),
        ({"x" * 99: 1}, lambda f: f.finish(), "unknown field 'xxxx"),
    ],
)
def test_a_wrong_field_is_named(
    value: dict[str, Any], take: Callable[[Fields], object], problem: str
) -> None:
    with pytest.raises(MalformedDocument) as caught:
        take(load(json.dumps(value)))
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_inner_object_says_where_it_lies() -> None:
    with pytest.raises(MalformedDocument, match=r"The paper \(box\) is malformed: a is missing"):
        load('{"box":{}}').object("box").text("a")
    with pytest.raises(MalformedDocument, match=r"The paper \(row\) is malformed: unknown field"):
        load('{"row":[{"a":1}]}').objects("row", cap=1)[0].finish()


def test_what_is_there_is_taken_once() -> None:
    fields = load(
        '{"t":"x","n":7,"f":false,"l":["p","q"],"m":{"k":"v"},"o":{},"c":{"k":1},'
        '"e":{"s":"r","d":{"x":"y"}}}'
    )
    assert fields.has("t")
    assert fields.text("t") == "x"
    assert not fields.has("t")
    assert fields.number("n") == 7
    assert fields.flag("f") is False
    assert fields.texts("l") == ("p", "q")
    assert fields.mapping("m") == {"k": "v"}
    assert fields.facts("c") == {"k": 1}
    assert fields.nested("e") == {"s": "r", "d": {"x": "y"}}
    fields.object("o").finish()
    fields.finish()
    with pytest.raises(MalformedDocument, match="t is missing"):
        fields.text("t")


def test_defaults_stand_in_for_what_is_missing() -> None:
    fields = load("{}")
    assert fields.text("t", default="d") == "d"
    assert fields.number("n", default=3) == 3
    assert fields.flag("f", default=False) is False
