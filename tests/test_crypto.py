"""Keys, their hashes, and the secret file: made once, kept private, agreed on by all processes."""

import hashlib
import hmac
import os
import subprocess
import sys
from pathlib import Path

import pytest

import antiphon
from antiphon.crypto import Secret, digest, hint, new_key
from antiphon.errors import SettingsError

SECRET = Secret(b"s" * 32)


def test_new_keys_differ_and_hold_256_bits() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert {(key[:6], len(key)) for key in keys} == {("sk-ap-", 6 + 43)}


def test_a_hint_tells_little() -> None:
    assert hint("sk-ap-" + "a" * 39 + "wxyz") == "sk-ap-…wxyz"
    assert hint("chosen by a user") == "…"


def test_a_digest_is_an_hmac_sha256_of_the_key() -> None:
    assert digest("key", SECRET) == hmac.new(SECRET.value, b"key", hashlib.sha256).digest()
    assert digest("key", SECRET) != digest("key", Secret.ephemeral())
    assert digest("\udc80", SECRET)  # whatever a header holds can be hashed


def test_a_secret_is_not_shown() -> None:
    assert "sss" not in repr(SECRET)


def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    database = tmp_path / "made" / "store.db"
    first = Secret.beside(database)

    assert Secret.beside(database) == first
    assert [path.name for path in database.parent.iterdir()] == ["store.db.secret"]
    assert (database.parent / "store.db.secret").stat().st_mode & 0o777 == 0o600
    assert database.parent.stat().st_mode & 0o777 == 0o700
    assert Secret.beside(tmp_path / "other.db") != first


def test_processes_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from antiphon.crypto import Secret; input(); print(Secret.beside(Path(sys.argv[1])).value.hex())"  # noqa: E501
    others = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "store.db")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(antiphon.__file__).parents[1])},
        )
        for _ in range(4)
    ]
    said = {other.communicate("\n", timeout=30)[0].strip() for other in others}
    assert said == {Secret.beside(tmp_path / "store.db").value.hex()}


def test_whoever_comes_second_takes_the_first_ones_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Secret.beside(tmp_path / "store.db")
    monkeypatch.setattr(Path, "exists", lambda _: False)  # both looked before either had made it

    assert Secret.beside(tmp_path / "store.db") == first
    assert [path.name for path in tmp_path.iterdir()] == ["store.db.secret"]


def test_a_secret_that_everyone_can_read_is_refused(tmp_path: Path) -> None:
    Secret.beside(tmp_path / "store.db")
    (tmp_path / "store.db.secret").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        Secret.beside(tmp_path / "store.db")


def test_a_damaged_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.db.secret").write_bytes(b"short")
    (tmp_path / "store.db.secret").chmod(0o600)
    with pytest.raises(SettingsError, match="damaged"):
        Secret.beside(tmp_path / "store.db")


def test_a_place_that_cannot_hold_a_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be used"):
        Secret.beside(tmp_path / "file" / "store.db")
