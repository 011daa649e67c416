"""Settings: where they come from, which wins, and what a mistake in them says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest

from antiphon import origins
from antiphon.config import (
    ChatUpstream,
    Effort,
    Limits,
    LocalModel,
    ResponsesUpstream,
    ScriptedModel,
    Section,
    Settings,
)
from antiphon.errors import SettingsError
from antiphon.wire.formats import ReasoningEffort

KEY = "sk-live-0123456789abcd12"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and a home without settings."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(directory: Path, text: str, name: str = "antiphon.toml") -> str:
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return str(file)


def load(home: Path, text: str = "", environ: dict[str, str] | None = None, **flags: object) -> Settings:
    path = written(home, text, "given.toml") if text else None
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return origins.load(path, {"HOME": str(home)} | (environ or {}), dotted)


def fault(home: Path, text: str = "", environ: dict[str, str] | None = None, **flags: object) -> str:
    with pytest.raises(SettingsError) as raised:
        load(home, text, environ, **flags)
    return raised.value.message


# Sources and their order.


def test_without_any_source_the_defaults_hold_and_the_database_lies_in_the_data_directory(home: Path) -> None:
    settings = load(home)
    assert settings.server.port == 8000
    assert settings.limits == Limits()
    assert settings.models == ()
    assert settings.storage.database == str(home / ".local/share/antiphon/antiphon.db")


def test_environment_overrides_the_file_and_flags_override_both(home: Path) -> None:
    text = "[server]\nport = 1\nhost = '10.0.0.1'\n[limits]\nturns_max = 5\n"
    environ = {"ANTIPHON_SERVER__PORT": "2", "ANTIPHON_LIMITS__TURNS_MAX": "8"}
    settings = load(home, text, environ, server__port=3)
    assert (settings.server.port, settings.server.host, settings.limits.turns_max) == (3, "10.0.0.1", 8)


def test_the_file_of_the_flag_wins_over_that_of_the_environment_and_both_over_the_usual_places(home: Path) -> None:
    user = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "xdg")}

    def port(path: str | None, environ: dict[str, str]) -> int:
        return origins.load(path, user | environ).server.port

    assert port(None, {}) == 8000
    written(home, "server.port = 1", "xdg/antiphon/antiphon.toml")
    assert port(None, {}) == 1
    written(home, "server.port = 2")
    assert port(None, {}) == 2
    by_environment = {"ANTIPHON_CONFIG": written(home, "server.port = 3", "c.toml")}
    assert port(None, by_environment) == 3
    assert port(written(home, "server.port = 4", "d.toml"), by_environment) == 4


def test_without_xdg_the_users_file_is_below_dot_config(home: Path) -> None:
    written(home, "server.port = 7", ".config/antiphon/antiphon.toml")
    assert load(home).server.port == 7


def test_a_chosen_database_may_start_with_a_tilde(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    assert load(home, storage__database="~/a.db").storage.database == str(home / "a.db")


@pytest.mark.parametrize(
    ("platform", "environ", "place"),
    [
        ("linux", {"HOME": "/h"}, "/h/.local/share/antiphon/antiphon.db"),
        ("linux", {"HOME": "/h", "XDG_DATA_HOME": "/x"}, "/x/antiphon/antiphon.db"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Application Support/antiphon/antiphon.db"),
        ("win32", {"HOME": "/h", "LOCALAPPDATA": "/local"}, "/local/antiphon/antiphon.db"),
    ],
)
def test_the_default_database_lies_where_the_system_keeps_data(
    platform: str, environ: dict[str, str], place: str
) -> None:
    assert origins.default_database(environ, platform) == str(Path(place))


def leaves(kind: type[Section] = Settings, path: str = "") -> Iterator[tuple[str, object]]:
    """Every setting that has a value of its own, with another value than its default."""
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, Section):
            yield from leaves(field.type, f"{path}{field.name}.")
        elif get_origin(field.type) is Literal:
            yield f"{path}{field.name}", get_args(field.type)[-1]
        elif isinstance(field.default, bool):
            yield f"{path}{field.name}", not field.default
        elif isinstance(field.default, int | float):
            yield f"{path}{field.name}", field.default + 1
        elif isinstance(field.default, str):
            yield f"{path}{field.name}", "other"


@pytest.mark.parametrize(("path", "value"), list(leaves()))
def test_every_setting_can_come_from_the_environment(home: Path, path: str, value: object) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    variables = {f"ANTIPHON_{path.replace('.', '__').upper()}": text, "other": "what a secret_env named other leads to"}
    settings: Any = load(home, environ=variables)
    for name in path.split("."):
        settings = getattr(settings, name)
    assert settings == value


@pytest.mark.parametrize("text", ["https://a.example, https://b.example", '["https://a.example", "https://b.example"]'])
def test_a_list_in_the_environment_is_json_or_comma_separated(home: Path, text: str) -> None:
    settings = load(home, environ={"ANTIPHON_CORS__ORIGINS": text})
    assert settings.cors.origins == ("https://a.example", "https://b.example")


def test_models_of_each_kind_come_from_tables_and_a_later_source_replaces_them_all(home: Path) -> None:
    text = """
        [[models]]
        kind = "chat"
        url = "http://127.0.0.1:8080/v1"
        models = ["a", "b"]
        reasoning_field = "null"
        connect_timeout_s = 3
        [[models]]
        kind = "responses"
        url = "http://127.0.0.1:8001/v1"
        attempts_max = 1
        [[models]]
        kind = "local"
        path = "x.gguf"
        gpu_layers = 4
    """
    chat = ChatUpstream(url="http://127.0.0.1:8080/v1", models=("a", "b"), reasoning_field=None, connect_timeout_s=3.0)
    responses = ResponsesUpstream(url="http://127.0.0.1:8001/v1", attempts_max=1)
    assert load(home, text).models == (chat, responses, LocalModel(path="x.gguf", gpu_layers=4))
    assert load(home, text, {"ANTIPHON_MODELS": '[{"kind": "scripted"}]'}).models == (ScriptedModel(),)
    assert load(home, text, models=[{"kind": "scripted", "name": "s"}]).models == (ScriptedModel(name="s"),)


# Mistakes.


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[limits]\nturn_max = 1", ("given.toml", "limits.turn_max", "did you mean limits.turns_max?")),
        ("[server]\nturns_max = 1", ("server.turns_max", "did you mean limits.turns_max?")),
        ("[server]\nzzzzz = 1", ("server.zzzzz", "there are: host, port")),
        ("[sever]\nport = 1", ("sever is not a setting", "did you mean server?")),
        ("server = 3", ("server: expected a table, got 3",)),
        ("[server]\nport = '8000'", ("given.toml: server.port: expected `int`, got `str`",)),
        ("[server]\nport = 70000", ("server.port: expected `int` <= 65535",)),
        ("[server]\nlog_level = 'loud'", ("server.log_level", "debug, info, warning, error", "'loud'")),
        ("models = 3", ("models: expected a list of tables, got 3",)),
        ("models = [3]", ("models[0].kind", "chat, responses, local, scripted")),
        ("[[models]]\nkind = 'scripted'\n[[models]]\nkind = 'chta'", ("models[1].kind", "got 'chta'")),
        ("[[models]]\nurl = 'http://x/v1'", ("models[0].kind", "got None")),
        ("[[models]]\nkind = 'chat'", ("models[0].url: missing",)),
        ("[[models]]\nkind = 'chat'\nurl = 'localhost:80'", ("models[0].url", "http://127.0.0.1:8080/v1")),
        ("[[models]]\nkind = 'local'\npath = 'x'\nslot = 2", ("models[0].slot", "did you mean models[0].slots?")),
        ("[[models]]\nkind = 'chat'\nurl = 'http://x'\nreasoning_field = 'x'", ("reasoning, got 'x'",)),
        ("[server]\nport = \n", ("given.toml", "not TOML", "line 2")),
    ],
)
def test_a_mistake_in_the_file_names_the_file_the_path_and_what_is_expected(
    home: Path, text: str, parts: tuple[str, ...]
) -> None:
    message = fault(home, text)
    assert [part for part in ("given.toml", *parts) if part not in message] == []


@pytest.mark.parametrize(
    ("variable", "text", "parts"),
    [
        ("ANTIPHON_LIMITS__TURN_MAX", "1", ("did you mean limits.turns_max?",)),
        ("ANTIPHON_LIMITS", "{}", ("limits is a table", "ANTIPHON_LIMITS__TURNS_MAX")),
        ("ANTIPHON_SERVER__PORT__X", "1", ("there is nothing below server.port",)),
        ("ANTIPHON_SERVER__PORT", "many", ("server.port: expected `int`, got `str`",)),
        ("ANTIPHON_SERVER__STRICT", "perhaps", ("server.strict: expected `bool`",)),
        ("ANTIPHON_MODELS", "[{", ("this is not JSON",)),
        ("ANTIPHON_MODELS", "qwen", ("models[0].kind",)),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    home: Path, variable: str, text: str, parts: tuple[str, ...]
) -> None:
    message = fault(home, environ={variable: text})
    assert [part for part in (f"environment variable {variable}", *parts) if part not in message] == []


def test_a_mistake_on_the_command_line_says_so(home: Path) -> None:
    assert fault(home, server__port=-1) == "the command line: server.port: expected `int` >= 0"


def test_a_named_file_must_be_readable_text(home: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml: .* cannot be read: No such file"):
        origins.load("nowhere.toml", {})
    (home / "latin.toml").write_bytes(b"a = '\xe9'")
    with pytest.raises(SettingsError, match=r"latin\.toml: this is not UTF-8: byte 5"):
        origins.load("latin.toml", {})


def test_the_settings_know_every_effort() -> None:
    assert get_args(Effort) == get_args(ReasoningEffort)


# Secrets.

CHAT = "[[models]]\nkind = 'chat'\nurl = 'https://u:p@api.example/v1'\n"


def test_key_env_is_read_once_and_for_all_into_the_key(home: Path) -> None:
    text = (
        CHAT + "key_env = 'UP'\n[[auth.keys]]\nkey_env = 'MINE'\nproject = 'shop'\n[tools.web_search]\nkey_env = 'UP'"
    )
    settings = load(home, text, {"UP": KEY, "MINE": "secret"})
    assert isinstance(settings.models[0], ChatUpstream)
    assert settings.tools.web_search.key == KEY
    assert settings.models[0].key == KEY
    assert (settings.auth.keys[0].key, settings.auth.keys[0].project) == ("secret", "shop")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CHAT + "key_env = 'UP'", "models[0].key_env: the environment variable UP is not set"),
        (CHAT + "key_env = 'UP'\nkey = 'k'", "models[0]: key and key_env are both set; keep one"),
        ("[tools.web_search]\nkey_env = 'UP'", "tools.web_search.key_env: the environment variable UP is not set"),
        ("[[auth.keys]]\nkey_env = 'UP'", "auth.keys[0].key_env: the environment variable UP is not set"),
        ("[[auth.keys]]\nproject = 'shop'", "auth.keys[0]: give it a key, or better key_env"),
    ],
)
def test_a_key_that_cannot_be_known_is_a_mistake(home: Path, text: str, message: str) -> None:
    assert fault(home, text) == message


def test_masked_settings_show_hints_and_no_secret(home: Path) -> None:
    text = CHAT + f"key = '{KEY}'\n[[auth.keys]]\nkey = 'short-secret'"
    shown: Any = origins.masked(load(home, text))
    assert shown["models"][0]["key"] == "sk-…cd12"
    assert shown["models"][0]["url"] == "https://***@api.example/v1"
    assert shown["auth"]["keys"][0]["key"] == "***"
    assert origins.masked(Settings()) == msgspec.json.decode(msgspec.json.encode(Settings()))


def test_the_tree_as_toml_reads_back_as_the_same_settings(home: Path) -> None:
    models = [{"kind": "local", "path": 'C:\\a "b".gguf'}, {"kind": "chat", "url": "http://x/v1", "models": ["ä"]}]
    keys = [{"project": "shop", "key": "plain"}]
    settings = load(home, models=models, auth__keys=keys, storage__database="x.db", tools__scripted__enabled=True)
    text = origins.as_toml(msgspec.json.decode(msgspec.json.encode(settings)))
    assert load(home, text) == settings
