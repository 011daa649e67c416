"""What a fake model's name promises and what its tokens look like; knows no socket and asks no clock."""

import re

from msgspec import Struct

STAMP_MODULUS = 10**11
STAMP = re.compile(rb"T(\d{11})")
_NAME = re.compile(r"fake-(\d+)(?:-(\d+))?(?:-(\d+))?")


class FakeModel(Struct, frozen=True):
    """`fake-N[-R[-D]]`: N tokens, R of them a second (0: as fast as possible), the first after D ms."""

    tokens: int
    tokens_per_s: int
    delay_ms: int


def fake_model(name: str) -> FakeModel | None:
    found = _NAME.fullmatch(name)
    return FakeModel(*(int(number or 0) for number in found.groups())) if found else None


def token(at_us: int) -> bytes:
    """A token's text is the microsecond at which it was made, so that any reader can tell how late it came."""
    return b"T%011d" % (at_us % STAMP_MODULUS)


def lag_us(stamp: bytes, now_us: int) -> int:
    """Stamps wrap after 28 hours of uptime; a difference below that is still right."""
    return (now_us - int(stamp)) % STAMP_MODULUS
