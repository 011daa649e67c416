"""What is sealed opens for its own project and kind, with a key that is known, and in no other way."""

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import antiphon
from antiphon import origins
from antiphon.config import SealingKey, Settings
from antiphon.errors import InvalidEncryptedContent, SettingsError
from antiphon.sealing import INFLATED_BYTES_MAX, Seal

SECRET = b"s" * 32
TEXT = "The user wants the weather in Zürich, so I call get_weather. " * 20
SEAL = Seal(SECRET)


def keyed(*ids: str, secret: bytes = SECRET) -> Seal:
    return Seal(secret, [SealingKey(id=one, key=one * 32) for one in ids])


def refuses(text: str, project: str = "p", kind: str = "reasoning", seal: Seal = SEAL) -> None:
    with pytest.raises(InvalidEncryptedContent) as refused:
        seal.open(project, kind, text)
    assert (refused.value.status, refused.value.code) == (400, "invalid_encrypted_content")
    assert refused.value.message == InvalidEncryptedContent().message  # which says nothing of why
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"x", TEXT.encode(), bytes(range(256)) * 4, b"a" * 1_000_000],
    ids=["empty", "zero", "one", "text", "bytes", "long"],
)
def test_what_is_sealed_opens_as_it_was(data: bytes) -> None:
    sealed = SEAL.seal("p", "reasoning", data)
    assert sealed.startswith("antiphon1..")
    assert sealed.isascii()
    assert not set(sealed) & set("+/=\n ")
    assert SEAL.open("p", "reasoning", sealed) == data


def test_names_of_any_letters_bind() -> None:
    sealed = SEAL.seal("prøjekt\udc80", "reasoning", b"x")
    assert SEAL.open("prøjekt\udc80", "reasoning", sealed) == b"x"
    refuses(sealed, "projekt")


def test_nothing_of_the_data_shows() -> None:
    sealed = SEAL.seal("p", "reasoning", b"plainly" * 3)
    body = sealed.rpartition(".")[2]
    assert b"plainly" not in base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


def test_the_same_data_is_sealed_otherwise_each_time() -> None:
    assert len({SEAL.seal("p", "reasoning", b"x") for _ in range(100)}) == 100


def test_what_can_be_compressed_is() -> None:
    assert len(SEAL.seal("p", "reasoning", TEXT.encode())) < len(TEXT) / 3


@pytest.mark.parametrize("data", [b"short", TEXT.encode()], ids=["plain", "deflated"])
def test_a_text_that_was_changed_anywhere_is_refused(data: bytes) -> None:
    sealed = SEAL.seal("p", "reasoning", data)
    for place, letter in enumerate(sealed):
        for other in {"A", "B", "_", ".", " ", "=", "é", chr(ord(letter) ^ 1)} - {letter}:
            refuses(sealed[:place] + other + sealed[place + 1 :])


def test_a_text_that_was_cut_is_refused_at_every_length() -> None:
    sealed = SEAL.seal("p", "reasoning", TEXT.encode())
    for length in range(len(sealed)):
        refuses(sealed[:length])


def test_a_text_has_one_spelling() -> None:
    """Else something that was sealed once could be told as two."""
    for length in range(4):
        sealed = SEAL.seal("p", "reasoning", b"x" * length)
        for other in (sealed + "=", sealed + "A", sealed + "\n", " " + sealed, sealed + ".", sealed.replace(".", "..")):
            refuses(other)
        body = sealed.rpartition(".")[2]
        if len(body) % 4:  # bits that no byte holds
            refuses(sealed[:-1] + chr(ord(sealed[-1]) + 1))


def test_another_project_and_another_kind_are_refused() -> None:
    sealed = SEAL.seal("p", "reasoning", b"x")
    refuses(sealed, project="q")
    refuses(sealed, project="")
    refuses(sealed, kind="compaction")
    refuses(SEAL.seal("ab", "c", b"x"), project="a", kind="bc")


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "antiphon1..", "antiphon1", "gAAAAABo" + "x" * 200, "antiphon1..é", "\udc80", "\0", "x" * 1_000_000,
     "antiphon1.." + "A" * 16, "antiphon1.." + "A" * 1_000_000, "." * 1_000_000],
)  # fmt: skip
def test_garbage_is_refused(text: str) -> None:
    refuses(text)


def test_an_unknown_key_and_version_are_refused() -> None:
    sealed = SEAL.seal("p", "reasoning", b"x")
    refuses(sealed.replace("..", ".k."))
    refuses(sealed.replace("antiphon1", "antiphon2"))
    refuses(sealed, seal=Seal(b"t" * 32))


def test_the_first_key_seals_and_all_open() -> None:
    own, old, both = SEAL.seal("p", "r", b"1"), keyed("a").seal("p", "r", b"2"), keyed("b", "a")
    new = both.seal("p", "r", b"3")

    assert [text.split(".")[1] for text in (own, old, new)] == ["", "a", "b"]
    assert [both.open("p", "r", text) for text in (own, old, new)] == [b"1", b"2", b"3"]


def test_what_a_removed_key_sealed_is_refused() -> None:
    old = keyed("a").seal("p", "r", b"x")
    refuses(old, kind="r", seal=keyed("b"))
    renamed = Seal(SECRET, [SealingKey(id="b", key="a" * 32)])
    refuses(old.replace(".a.", ".b."), kind="r", seal=renamed)


def test_servers_of_one_key_open_what_each_other_sealed() -> None:
    assert keyed("a", secret=b"2" * 32).open("p", "r", keyed("a", secret=b"1" * 32).seal("p", "r", b"x")) == b"x"


def test_a_seal_opens_again_after_a_restart() -> None:
    assert Seal(SECRET).open("p", "r", SEAL.seal("p", "r", b"x")) == b"x"


def test_what_is_too_large_to_inflate_is_sealed_as_it_is() -> None:
    data = bytes(INFLATED_BYTES_MAX + 1)
    sealed = SEAL.seal("p", "r", data)
    assert len(sealed) > len(data)
    assert SEAL.open("p", "r", sealed) == data


def test_the_library_is_loaded_by_the_first_use() -> None:
    script = "import sys; from antiphon.sealing import Seal; s = Seal(b's' * 32); assert 'cryptography' not in sys.modules; s.seal('p', 'r', b''); assert 'cryptography' in sys.modules"  # noqa: E501
    source = str(Path(antiphon.__file__).parents[1])
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30, env={"PYTHONPATH": source})


# Settings.

KEY = "0123456789abcdef0123456789abcdef"


def load(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "antiphon.toml").write_text(text, encoding="utf-8")
    return origins.load(str(tmp_path / "antiphon.toml"), {"HOME": str(tmp_path), "A_KEY": KEY})


def test_keys_come_from_the_file_or_the_environment_and_are_masked(tmp_path: Path) -> None:
    text = f"[[sealing.keys]]\nid = 'new'\nkey_env = 'A_KEY'\n[[sealing.keys]]\nid = 'old'\nkey = 'x{KEY}'\n"
    settings = load(tmp_path, text)

    assert [(key.id, key.key) for key in settings.sealing.keys] == [("new", KEY), ("old", "x" + KEY)]
    shown: Any = origins.masked(settings)
    assert [key["key"] for key in shown["sealing"]["keys"]] == ["012…cdef", "x01…cdef"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("{id = 'a', key = 'short'}", r"sealing.keys\[0\].key: too short"),
        ("{id = 'a'}", r"sealing.keys\[0\]: give it a key"),
        ("{id = 'a', key_env = 'NONE'}", r"sealing.keys\[0\].key_env: the environment variable NONE is not set"),
        (f"{{key = '{KEY}'}}", r"sealing.keys\[0\].id: missing"),
        (f"{{id = 'a.b', key = '{KEY}'}}", r"sealing.keys\[0\].id: "),
        (f"{{id = '', key = '{KEY}'}}", r"sealing.keys\[0\].id: "),
        (f"{{id = 'a', key = '{KEY}'}}, {{id = 'a', key = 'x{KEY}'}}", r"sealing.keys\[1\].id: a is another key's"),
    ],
)
def test_a_key_that_cannot_seal_is_a_mistake(tmp_path: Path, keys: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(tmp_path, f"sealing.keys = [{keys}]")
