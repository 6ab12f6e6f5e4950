"""Strict JSON: what flashboot signs and parses has one spelling only.

Written: UTF-8, sorted keys, no spaces. Read: no duplicate keys, no floats, no NaN, an object at
the top, nothing unknown and nothing missing.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from flashboot.errors import MalformedDocument

T = TypeVar("T")


def dump(value: Mapping[str, Any]) -> bytes:
    """`value` in its one spelling. Raises MalformedDocument for text that UTF-8 cannot hold."""
    try:
        return _spell(value)
    except UnicodeEncodeError as error:
        raise MalformedDocument("document", f"it cannot be written as UTF-8 ({error})") from error


def _spell(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def load(data: bytes, *, what: str) -> "Fields":
    """The object in `data`. Raises MalformedDocument, naming `what`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise MalformedDocument(what, "a key stands twice in one object")
        return dict(pairs)

    def refuse(text: str) -> Any:
        raise MalformedDocument(what, f"{text[:40]} is not a whole number")

    def whole(text: str) -> int:
        if len(text) > 20:  # wider than any quantity here, and int() of long text is quadratic
            raise MalformedDocument(what, "a number is too long")
        return int(text)

    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=unique,
            parse_float=refuse,
            parse_constant=refuse,
            parse_int=whole,
        )
        _spell(value)  # an escaped half of a surrogate pair is no text: it could not be written
    except (ValueError, RecursionError) as error:
        raise MalformedDocument(what, f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise MalformedDocument(what, "not an object")
    return Fields(value, what=what)


class Fields:
    """The fields of one object, taken one by one; what is left over is an error.

    Every method raises MalformedDocument.
    """

    def __init__(self, value: dict[str, Any], *, what: str) -> None:
        self._left = dict(value)
        self._what = what

    def fail(self, problem: str) -> MalformedDocument:
        return MalformedDocument(self._what, problem)

    def _take(self, key: str, kind: type[T], default: T | None) -> T:
        value = self._left.pop(key, default)
        if value is None:
            raise self.fail(f"{key} is missing")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fail(f"{key} is not {_KINDS[kind]}")
        return value

    def text(self, key: str, *, default: str | None = None, cap: int = 1024) -> str:
        value = self._take(key, str, default)
        if len(value) > cap:
            raise self.fail(f"{key} has more than {cap} characters")
        return value

    def number(
        self, key: str, *, low: int = 0, high: int = 2**63, default: int | None = None
    ) -> int:
        value = self._take(key, int, default)
        if not low <= value <= high:
            raise self.fail(f"{key} is {value}, not in {low} to {high}")
        return value

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        return self._take(key, bool, default)

    def texts(self, key: str, *, cap: int = 256) -> tuple[str, ...]:
        value = self._take(key, list, None)
        if len(value) > cap or not all(
            isinstance(item, str) and len(item) <= 4096 for item in value
        ):
            raise self.fail(f"{key} is not a list of at most {cap} texts")
        return tuple(value)

    def mapping(self, key: str, *, cap: int = 64) -> dict[str, str]:
        value = self._take(key, dict, None)
        if len(value) > cap or not all(isinstance(item, str) for item in value.values()):
            raise self.fail(f"{key} is not an object of at most {cap} texts")
        return value

    def nested(self, key: str, *, cap: int = 64) -> dict[str, str | Mapping[str, str]]:
        """An object of texts and of objects of texts."""
        value = self._take(key, dict, None)
        leaves: list[Any] = []
        for item in value.values():
            leaves.extend(item.values() if isinstance(item, dict) else (item,))
        if len(leaves) > cap or not all(isinstance(leaf, str) for leaf in leaves):
            raise self.fail(f"{key} is not an object of at most {cap} texts, nested once")
        return value

    def facts(self, key: str, *, cap: int = 64) -> dict[str, int | str]:
        value = self._take(key, dict, None)
        if len(value) > cap or not all(type(item) in (int, str) for item in value.values()):
            raise self.fail(f"{key} is not an object of at most {cap} numbers and texts")
        return value

    def digest(self, key: str) -> bytes:
        text = self.text(key)
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != 32 or value.hex() != text:
            raise self.fail(f"{key} is not a SHA-256 in lower-case hexadecimal")
        return value

    def has(self, key: str) -> bool:
        return key in self._left

    def object(self, key: str) -> "Fields":
        return Fields(self._take(key, dict, None), what=f"{self._what} ({key})")

    def objects(self, key: str, *, cap: int) -> tuple["Fields", ...]:
        value = self._take(key, list, None)
        if len(value) > cap or not all(isinstance(item, dict) for item in value):
            raise self.fail(f"{key} is not a list of at most {cap} objects")
        return tuple(Fields(item, what=f"{self._what} ({key})") for item in value)

    def finish(self) -> None:
        if self._left:
            raise self.fail(f"unknown field {sorted(self._left)[0][:40]!r}")


_KINDS: dict[type, str] = {
    str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "an object",
}  # fmt: skip
