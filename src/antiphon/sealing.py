"""Seal: what is given to a client to keep, and to nobody to read or change. Knows no item, no request and no store.

    antiphon1.<key id>.<base64url of: nonce (12 bytes), AES-256-GCM of (form, data)>

The text names a key; what encrypts is derived from it (HKDF-SHA256) for one project, and the version, the key id, the
project and the kind are authenticated with the data. So what was sealed for one project, or as one kind, opens for no
other. Nonces are random: as each project has a key of its own, it is each project that may seal 2^32 texts before two
nonces are the same with a chance of 2^-33 (NIST SP 800-38D, 8.3); with a new key it starts anew.

What is compressed shows by its length how well it compresses. That tells nothing new: whoever has the text made it, or
was given what is in it, and no two projects' data are ever in one.
"""

import base64
import binascii
import os
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from antiphon.config import SealingKey
from antiphon.errors import InvalidEncryptedContent

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION: Final = "antiphon1"
OWN: Final = ""
"""The id of the key that is derived from the secret beside the database."""
NONCE_BYTES: Final = 12
PLAIN, DEFLATED = b"\0", b"\1"
WINDOW_BITS, MEMORY_LEVEL = -12, 5
"""zlib's usual 256 KB of memory take ten times as long to prepare as a short text to compress."""
DEFLATED_BYTES_MIN: Final = 256
"""Less is hardly made smaller."""
INFLATED_BYTES_MAX: Final = 64 * 1024 * 1024
"""What is larger is sealed as it is, so that whatever opens inflates to at most this."""
CIPHERS_MAX: Final = 4_096
"""Derived keys kept at once, about a kilobyte each: one more project costs 20 us."""


class Seal:
    """Seals with the first key, opens with every one."""

    def __init__(self, secret: bytes, keys: Sequence[SealingKey] = ()) -> None:
        """`secret` is this server's own: it seals where the settings name no key, and opens what it sealed always."""
        self._keys = {key.id: key.key.encode("utf-8", "surrogateescape") for key in keys} | {OWN: secret}
        self._first = next(iter(self._keys))
        self._cipher: Callable[[str, str], AESGCM] = lru_cache(CIPHERS_MAX)(self._derived)

    def seal(self, project: str, kind: str, data: bytes) -> str:
        """ASCII text that only `open` with the same project and kind turns into the data again."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher(self._first, project).encrypt(nonce, _packed(data), _bound(self._first, project, kind))
        return f"{VERSION}.{self._first}.{base64.urlsafe_b64encode(nonce + sealed).rstrip(b'=').decode()}"

    def open(self, project: str, kind: str, text: str) -> bytes:
        """Raises InvalidEncryptedContent, whatever it is that is wrong: to tell it would help only whoever forges."""
        from cryptography.exceptions import InvalidTag

        try:
            version, key_id, body = text.split(".")
            sealed = _decoded(body)
            if version != VERSION or key_id not in self._keys or len(sealed) <= NONCE_BYTES:
                raise InvalidEncryptedContent
            nonce, sealed = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
            return _unpacked(self._cipher(key_id, project).decrypt(nonce, sealed, _bound(key_id, project, kind)))
        except (ValueError, InvalidTag):
            raise InvalidEncryptedContent from None

    def _derived(self, key_id: str, project: str) -> "AESGCM":
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # an idle server is spared 10 MB
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = _bound(key_id, project, "key")  # the label keeps it apart from all that the secret is used for else
        return AESGCM(HKDF(SHA256(), length=32, salt=None, info=info).derive(self._keys[key_id]))


def _bound(*names: str) -> bytes:
    """Names in one: each with its length before it, so that no two rows of names give the same bytes."""
    raw = [name.encode("utf-8", "surrogatepass") for name in (VERSION, *names)]
    return b"".join(len(name).to_bytes(4) + name for name in raw)


def _packed(data: bytes) -> bytes:
    if DEFLATED_BYTES_MIN <= len(data) <= INFLATED_BYTES_MAX:
        press = zlib.compressobj(1, zlib.DEFLATED, WINDOW_BITS, MEMORY_LEVEL)
        deflated = press.compress(data) + press.flush()
        if len(deflated) < len(data):
            return DEFLATED + deflated
    return PLAIN + data


def _unpacked(packed: bytes) -> bytes:
    """Only what this server packed comes here, for it is authenticated."""
    if packed[:1] != DEFLATED:
        return packed[1:]
    return zlib.decompressobj(WINDOW_BITS).decompress(packed[1:], INFLATED_BYTES_MAX)


def _decoded(body: str) -> bytes:
    """Raises ValueError for all but the one spelling that `seal` writes: a second would let a text be changed."""
    sealed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(sealed).rstrip(b"=") != body.encode("ascii"):
        raise binascii.Error
    return sealed
