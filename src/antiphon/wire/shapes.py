"""Shapes: which raw JSON a wire allows, as data, and a check that names the first fault by its path. Knows no wire.

A shape narrows what the wire types take; what has another JSON type than it is about, it leaves for them to refuse.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches

from msgspec import Struct

from antiphon.errors import InvalidType, InvalidValue, MissingParameter, UnknownParameter
from antiphon.wire.faults import array_too_long

NAME_CHARS_MAX = 64
NEAR_MISS = 0.8


class Shape(Struct, frozen=True):
    """Anything that the wire types take."""

    def check(self, value: object, path: str) -> None:
        """Raises InvalidRequest that names the first fault."""


ANY = Shape()


class Words(Shape, frozen=True):
    """One of some strings."""

    words: tuple[str, ...]

    def check(self, value: object, path: str) -> None:
        if isinstance(value, str) and value not in self.words:
            raise _not_among(value, self.words, path)


class Text(Shape, frozen=True):
    """A string of bounded length, in characters, all of it as `pattern` says."""

    most: int
    least: int = 0
    pattern: str | None = None

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, str):
            return
        if not self.least <= len(value) <= self.most:
            side, word = ("below_min", "short") if len(value) < self.least else ("above_max", "long")
            raise InvalidValue(
                f"Invalid '{path}': string too {word}. Expected a string with length from {self.least} to "
                f"{self.most}, but got a string with length {len(value)} instead.",
                param=path,
                code=f"string_{side}_length",
            )
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            raise InvalidValue(
                f"Invalid '{path}': string does not match pattern. Expected a string that matches '{self.pattern}'.",
                param=path,
            )


class AtLeast(Shape, frozen=True):
    """An integer that is not below a bound."""

    least: int

    def check(self, value: object, path: str) -> None:
        if isinstance(value, int) and not isinstance(value, bool) and value < self.least:
            raise InvalidValue(
                f"Invalid '{path}': integer below minimum value. Expected a value >= {self.least}, but got {value} "
                "instead.",
                param=path,
                code="integer_below_min_value",
            )


class Each(Shape, frozen=True):
    """An array of things of one shape."""

    of: Shape
    most: int | None = None

    def check(self, value: object, path: str) -> None:
        if isinstance(value, list):
            if self.most is not None and len(value) > self.most:
                raise array_too_long(path, self.most, len(value))
            for index, element in enumerate(value):
                self.of.check(element, f"{path}[{index}]")


class Fields(Shape, frozen=True):
    """An object with these fields and no other. A name that ends in `?` may be null, which means absent."""

    fields: Mapping[str, Shape]

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            return
        for name, field in value.items():
            place = f"{path}.{name}" if path else name
            shape = self.fields.get(name)
            if shape is not None and field is None:
                raise InvalidType(f"Invalid type for '{place}': it may be left out, but not be null.", param=place)
            shape = shape or self.fields.get(f"{name}?")
            if shape is None:
                raise self._unknown(name, place)
            shape.check(field, place)

    def _unknown(self, name: str, place: str) -> UnknownParameter:
        known = [one.removesuffix("?") for one in self.fields]
        near = get_close_matches(name, known, n=1, cutoff=NEAR_MISS) if len(name) <= NAME_CHARS_MAX else []
        hint = f" Did you mean '{place.removesuffix(name)}{near[0]}'?" if near else ""
        return UnknownParameter(f"Unknown parameter: '{place[:200]}'.{hint}", param=place)

    def takes(self, value: Mapping[str, object]) -> bool:
        """Whether all its fields are known here."""
        return all(name in self.fields or f"{name}?" in self.fields for name in value)


class Tagged(Shape, frozen=True):
    """An object of one of several kinds, which `tag` tells apart. One without it is `untagged`, if its fields fit."""

    tag: str
    kinds: Mapping[str, Shape]
    untagged: Fields | None = None

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            return
        kind = value.get(self.tag)
        if kind is None:
            if self.untagged is None or not self.untagged.takes(value):
                raise MissingParameter(f"Missing required parameter: '{path}.{self.tag}'.", param=f"{path}.{self.tag}")
            self.untagged.check(value, path)
        elif isinstance(kind, str):
            if kind not in self.kinds:
                raise _not_among(kind, tuple(self.kinds), f"{path}.{self.tag}")
            self.kinds[kind].check(value, path)


class Forms(Shape, frozen=True):
    """A string, an array or an object, each with a shape of its own."""

    text: Shape = ANY
    array: Shape = ANY
    fields: Shape = ANY

    def check(self, value: object, path: str) -> None:
        for shape in (self.text, self.array, self.fields):  # each passes over what it is not about
            shape.check(value, path)


def _not_among(value: str, words: tuple[str, ...], path: str) -> InvalidValue:
    known = ", ".join(f"'{word}'" for word in words)
    return InvalidValue(f"Invalid value: '{value[:100]}' at '{path}'. Supported values are: {known}.", param=path)
