"""API keys and the secret they are hashed with. Knows no store, no request and no settings."""

import base64
import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from antiphon.errors import SettingsError

KEY_PREFIX: Final = "sk-ap-"
SECRET_BYTES: Final = 32
HINT_CHARS_MIN: Final = 24
"""Of a shorter key, which nobody but its owner chose, nothing is shown: the rest could be guessed."""


def new_key() -> str:
    """A fresh API key, of 256 random bits: nothing to guess, so that no slow hash is needed to protect it."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hint(key: str) -> str:
    """What may be shown of a key to tell it from others."""
    return f"{key[:6]}…{key[-4:]}" if len(key) >= HINT_CHARS_MIN else "…"


@dataclass(frozen=True)
class Secret:
    """What keys are hashed with: without it, a stolen database does not even tell whether a guess is right."""

    value: bytes = field(repr=False)

    @classmethod
    def ephemeral(cls) -> "Secret":
        """For what is kept in memory only."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def given(cls, text: str) -> "Secret":
        """The one of the settings. Raises SettingsError."""
        with suppress(ValueError):
            if len(value := base64.b64decode(text, validate=True)) == SECRET_BYTES:
                return cls(value)
        raise SettingsError(f"server.secret: expected {SECRET_BYTES} bytes in base64: openssl rand -base64 32")

    @classmethod
    def beside(cls, database: Path) -> "Secret":
        """The secret in the file next to the database, made when there is none. Raises SettingsError."""
        path = database.with_name(database.name + ".secret")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                _create(path)
            return cls(_read(path))
        except OSError as error:
            raise SettingsError(f"The secret {path} cannot be used: {error.strerror or error}.") from error


def digest(key: str, secret: Secret) -> bytes:
    """The keyed hash under which a key is stored and looked up.

    A plain dict lookup is safe: whoever tries keys cannot steer their digests without the secret, so the time that a
    comparison takes tells nothing.
    """
    return hmac.digest(secret.value, key.encode("utf-8", "surrogatepass"), "sha256")


def _create(path: Path) -> None:
    """Whole or not at all, and one only: of several processes that start at once, the first to link its file wins."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())  # lost with the power, it would lock out every key made since
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    if os.name == "posix" and path.stat().st_mode & 0o007:
        raise SettingsError(f"Everyone on this machine can use the secret {path}. Take that away: chmod 600 {path}")
    value = path.read_bytes()
    if len(value) != SECRET_BYTES:
        raise SettingsError(
            f"The secret {path} is damaged. Restore it from a backup, or delete it and create all API keys anew."
        )
    return value
