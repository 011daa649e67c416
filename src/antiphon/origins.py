"""Origins: where settings come from — a TOML file, the environment and flags, in that order of rising precedence — and
how they are shown again.

Environment: `ANTIPHON_LIMITS__TURNS_MAX=8` sets `limits.turns_max`. An unknown key is an error that names the nearest.
Knows the tree (config.py) only as a tree.
"""

import difflib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from antiphon.config import HttpUrl, Section, Settings
from antiphon.errors import SettingsError
from antiphon.keys import Tree, filled, mask

PREFIX = "ANTIPHON_"
NOT_SETTINGS = frozenset({"ANTIPHON_CONFIG", "ANTIPHON_API_KEY"})
"""Variables with our prefix that are no setting: where the file is, and the key of `antiphon responses`."""

FILE_NAME = "antiphon.toml"


def load(path: str | None, environ: Mapping[str, str], flags: Mapping[str, object] = {}) -> Settings:
    """The effective settings; raises SettingsError. `path` is that of `--config`; `flags` maps dotted paths such as
    "server.port" to values. A list is replaced as a whole, never added to. Secrets named by `key_env` are filled in."""
    file = settings_file(path, environ)
    tree = merge(_from_file(file) if file else {}, _from_environment(environ))
    tree = merge(tree, _checked("the command line", _nested(flags)))
    settings = msgspec.convert(filled(tree, environ), Settings)
    chosen = settings.storage.database
    if settings.storage.is_postgres:
        return settings
    database = str(Path(chosen).expanduser()) if chosen else default_database(environ)
    return msgspec.structs.replace(settings, storage=msgspec.structs.replace(settings.storage, database=database))


def settings_file(path: str | None, environ: Mapping[str, str]) -> Path | None:
    """The file that is read. One that was named must exist; the two usual places may be empty."""
    if named := path or environ.get("ANTIPHON_CONFIG"):
        return Path(named).expanduser()
    user = _user_directory(environ, sys.platform, "XDG_CONFIG_HOME", "APPDATA", ".config")
    return next((file for file in (Path(FILE_NAME), user / FILE_NAME) if file.is_file()), None)


def default_database(environ: Mapping[str, str], platform: str = sys.platform) -> str:
    """The SQLite file in the user's data directory, where none was chosen. The directory may not exist yet."""
    usual = "Library/Application Support" if platform == "darwin" else ".local/share"
    return str(_user_directory(environ, platform, "XDG_DATA_HOME", "LOCALAPPDATA", usual) / "antiphon.db")


def masked(settings: Settings) -> Tree:
    """The tree as plain values that may be shown: secrets are reduced to a hint."""
    return {name: mask(below, name) for name, below in msgspec.to_builtins(settings).items()}


def as_toml(tree: Mapping[str, object], prefix: str = "") -> str:
    """The tree as a settings file that `load` reads back. A JSON value is a TOML value, but for null and tables."""
    lines, tables = [], []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            below = as_toml(value, f"{prefix}{name}.")
            tables.append(below if below.startswith("\n[") else f"\n[{prefix}{name}]\n{below}")
        elif isinstance(value, list) and any(isinstance(element, Mapping) for element in value):
            tables += [f"\n[[{prefix}{name}]]\n{as_toml(element, f'{prefix}{name}.')}" for element in value]
        else:
            shown = "null" if value is None else value
            lines.append(f"{name} = {json.dumps(shown, ensure_ascii=False)}\n")
    return "".join(lines + tables)


def merge(under: Tree, over: Tree) -> Tree:
    """`over` wins, table by table; a list is one value."""
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _user_directory(environ: Mapping[str, str], platform: str, xdg: str, windows: str, usual: str) -> Path:
    chosen = environ.get(xdg) or (environ.get(windows) if platform == "win32" else None)
    home = environ.get("HOME")
    return (Path(chosen) if chosen else (Path(home) if home else Path.home()) / usual) / "antiphon"


# Three sources, each checked by itself, so that an error can say where it stood.


def _from_file(file: Path) -> Tree:
    import tomllib  # only who has a file pays for it

    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: this is not TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: this is not UTF-8: byte {error.start}") from None
    except OSError as error:
        raise SettingsError(f"{file}: the settings file cannot be read: {error.strerror}") from None
    return _checked(str(file), raw)


def _from_environment(environ: Mapping[str, str]) -> Tree:
    tree: Tree = {}
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in NOT_SETTINGS:
            path = variable.removeprefix(PREFIX).lower().replace("__", ".")
            where = f"environment variable {variable}"
            value = _parsed(_kind_at(path, where), environ[variable], where)
            tree = merge(tree, _checked(where, _nested({path: value}), is_text=True))
    return tree


def _nested(values: Mapping[str, object]) -> Tree:
    tree: Tree = {}
    for path, value in values.items():
        name, _, below = path.partition(".")
        tree = merge(tree, {name: _nested({below: value}) if below else value})
    return tree


def _parsed(kind: Any, text: str, where: str) -> object:
    """Lists come as JSON or with commas; every other type is told from its text by msgspec."""
    if get_origin(kind) is not tuple:
        return text
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{where}: this is not JSON: {error}") from None


def _kind_at(path: str, where: str) -> Any:
    """The type of a setting, which must be no table: a table is set key by key."""
    kind: Any = Settings
    for name in path.split("."):
        if not _is_section(kind):
            raise SettingsError(f"{where}: there is nothing below {path.rpartition('.')[0]}")
        kind = _field(kind, name, path, where)
    if _is_section(kind):
        names = [f"{PREFIX}{path.replace('.', '__').upper()}__{name.upper()}" for name in kind.__struct_fields__]
        raise SettingsError(f"{where}: {path} is a table; set one of {', '.join(names)}")
    return kind


# Checking against the tree of Structs. Written out, because msgspec's own message for a wrong tree names neither the
# element of a list nor the nearest key.


def _checked(where: str, raw: object, *, is_text: bool = False) -> Tree:
    return _table(Settings, raw, "", where, is_text)


def _table(kind: type[Section], raw: object, path: str, where: str, is_text: bool) -> Tree:
    if not isinstance(raw, dict):
        raise SettingsError(f"{where}: {path}: expected a table, got {raw!r}")
    checked: Tree = {}
    for name, value in raw.items():
        below = f"{path}.{name}" if path else name
        if name == kind.__struct_config__.tag_field:
            checked[name] = value
        else:
            checked[name] = _value(_field(kind, name, below, where), value, below, where, is_text)
    return checked


def _value(kind: Any, raw: object, path: str, where: str, is_text: bool) -> object:
    if _is_section(kind):
        return _table(kind, raw, path, where, is_text)
    if get_origin(kind) is tuple and (sections := _sections(get_args(kind)[0])):
        if not isinstance(raw, list):
            raise SettingsError(f"{where}: {path}: expected a list of tables, got {raw!r}")
        return [_element(sections, value, f"{path}[{index}]", where) for index, value in enumerate(raw)]
    return _leaf(kind, raw, path, where, is_text)


def _element(sections: Mapping[str, type[Section]], raw: object, path: str, where: str) -> Tree:
    tag = raw.get("kind") if isinstance(raw, dict) and "" not in sections else ""
    if tag not in sections:
        raise SettingsError(f"{where}: {path}.kind: expected one of {', '.join(sections)}, got {tag!r}")
    section = sections[str(tag)]
    checked = _table(section, raw, path, where, is_text=False)
    for field in msgspec.structs.fields(section):
        if field.required and field.name not in checked:
            raise SettingsError(f"{where}: {path}.{field.name}: missing")
    return checked


def _leaf(kind: Any, raw: object, path: str, where: str, is_text: bool) -> object:
    """TOML has no null, so the text "null" stands for it, as in the environment."""
    if raw == "null" and NoneType in get_args(kind):
        return None
    try:
        return msgspec.convert(raw, kind, strict=not is_text)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {path}: {_expected(kind, raw, str(error))}") from None


def _expected(kind: Any, raw: object, message: str) -> str:
    choices = [c for part in (kind, *get_args(kind)) if get_origin(part) is Literal for c in get_args(part)]
    if choices:
        return f"expected one of {', '.join(choices)}, got {raw!r}"
    if kind is HttpUrl and isinstance(raw, str):
        return f"expected an address such as http://127.0.0.1:8080/v1, got {raw!r}"
    return message[0].lower() + message[1:]


def _field(kind: type[Section], name: str, path: str, where: str) -> Any:
    known = {field.name: field.type for field in msgspec.structs.fields(kind)}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    elsewhere = None if near else difflib.get_close_matches(name, paths := dict(_leaves()), n=1)
    if near:
        hint = f"did you mean {path[: -len(name)]}{near[0]}?"
    elif elsewhere:
        hint = f"did you mean {paths[elsewhere[0]]}?"
    else:
        hint = f"there are: {', '.join(known)}"
    raise SettingsError(f"{where}: {path} is not a setting; {hint}")


def _leaves(kind: type[Section] = Settings, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting's own name with its path: a key is often right and stands in the wrong table."""
    for field in msgspec.structs.fields(kind):
        if _is_section(field.type):
            yield from _leaves(field.type, f"{prefix}{field.name}.")
        else:
            yield field.name, f"{prefix}{field.name}"


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _sections(kind: Any) -> dict[str, type[Section]]:
    """The tables a list may hold, by their tag; one without a tag under ""."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return {str(member.__struct_config__.tag or ""): member for member in members if _is_section(member)}
