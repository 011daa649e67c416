"""Settings: one frozen tree, from a TOML file, the environment and flags, in that order of rising precedence.

Knows the shape and the sources of settings; refuses to know what any of them does.

Environment: `ANTIPHON_LIMITS__TURNS_MAX=8` sets `limits.turns_max`. An unknown key is an error that names the nearest.
Units stand last in names. `[limits]` collects every bound, each with its reason.
"""

import difflib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from antiphon.errors import SettingsError
from antiphon.keys import Tree, filled, mask

Positive: TypeAlias = Annotated[int, Meta(ge=1)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0)]
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
HttpUrl: TypeAlias = Annotated[str, Meta(pattern=r"^https?://[^/\s]+")]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the settings file."""


class Server(Section, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    open_without_keys: bool = False
    """Serve on a non-loopback address although no key is configured."""
    strict: bool = False
    """Refuse unknown parameters instead of naming them in a header."""
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Storage(Section, frozen=True, kw_only=True):
    database: str = ""
    """Path of the SQLite file; empty: `default_database()`, which `load` fills in. ":memory:" keeps nothing."""
    synchronous: Literal["normal", "full"] = "normal"
    """normal: a power cut may lose the last moments, never corrupt; full: nothing, at one fsync a commit."""
    files: str = ""  # for their bytes; empty: beside the database ("antiphon.db.files"), or in memory with it


class StaticKey(Section, frozen=True, kw_only=True):
    project: str = "default"
    key: str = ""
    key_env: str = ""
    """Name of the environment variable that holds the key; better than `key` in the file. `load` fills in `key`."""


class Auth(Section, frozen=True, kw_only=True):
    required: bool = False
    """Ask for a key even while none exists (then nobody gets in)."""
    keys: tuple[StaticKey, ...] = ()


class SealingKey(Section, frozen=True, kw_only=True):
    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z")]
    """Stands readably in all that is sealed with the key."""
    key: str = ""
    """At least 32 characters, random: `openssl rand -base64 32`."""
    key_env: str = ""


class Sealing(Section, frozen=True, kw_only=True):
    """With what reasoning and compacted conversations are sealed that clients keep."""

    keys: tuple[SealingKey, ...] = ()
    """The first seals, all open: so a key is replaced, and several servers share one. Empty: the secret beside the
    database, which opens what it sealed in any case."""


class Cors(Section, frozen=True, kw_only=True):
    origins: tuple[str, ...] = ()
    """Origins that a browser may call from, for example "https://app.example"; "*" is any."""


class Limits(Section, frozen=True, kw_only=True):
    body_bytes_max: Positive = 64 * 1024 * 1024
    """A request body: room for a long history with some files in it, not for an attack on memory."""
    runs_max: Positive = 2_000
    """Responses being made at once; beyond it 429. One open stream costs tens of KB."""
    turns_max: Positive = 32
    """Model calls in one response: a model that calls hosted tools for ever must end."""
    repairs_max: Annotated[int, Meta(ge=0)] = 3
    """Turns in which the model may correct a call that could not be made: then the response fails."""
    history_items_max: Positive = 20_000
    """Items in one prompt, history included."""
    context_cache_bytes_max: Annotated[int, Meta(ge=0)] = 32 * 1024 * 1024
    """Memory for the contexts of the latest turns: a next turn that is not among them reads its history. 0: none."""
    tools_max: Positive = 512
    output_chars_max: Positive = 32 * 1024 * 1024
    """Text one response may grow to: a model that repeats itself for ever must end."""
    upstream_line_bytes_max: Positive = 16 * 1024 * 1024
    """One SSE line or one JSON body of an upstream."""
    first_byte_wait_s: Seconds = 10.0
    """How long a stream's headers wait for the model's first token, so that an early failure has an HTTP status."""
    keepalive_s: Seconds = 15.0
    """Silence after which a stream gets a comment; proxies commonly cut at 30 to 60 s."""
    shutdown_grace_s: Seconds = 10.0
    """How long running responses may finish when the server is asked to stop."""
    page_chars_max: Positive = 8 * 1024 * 1024
    """Text in one page of a list of responses, which ends early rather than grow beyond it: a hundred large ones are
    gigabytes."""
    store_queue_max: Positive = 10_000
    """Saves waiting for the writer."""
    file_bytes_max: Positive = 512 * 1024 * 1024
    upload_bytes_max: Positive = 8 * 1024 * 1024 * 1024
    upload_part_bytes_max: Positive = 64 * 1024 * 1024
    """A file sent in one request, one sent in parts, and such a part: as the reference has them."""
    upload_parts_max: Positive = 10_000
    files_per_project_max: Positive = 100_000
    file_bytes_per_project_max: Positive = 50 * 1024 * 1024 * 1024
    file_writes_max: Positive = 64
    file_silence_timeout_s: Seconds = 60.0
    """Pending uploads count, so that no project fills the disk. What is being received does not: hence the last two."""
    fetches_max: Positive = 32
    """Fetched at once, each held in memory whole; more wait for their turn."""


class Fetch(Section, frozen=True, kw_only=True):
    """How addresses that stand in requests are fetched. docs/security.md says what is refused."""

    enabled: bool = True
    allow: tuple[str, ...] = ()
    """What may be reached beyond public addresses on ports 80 and 443: networks ("10.0.0.0/8"), addresses and hosts,
    with or without a port ("127.0.0.1:8123", "files.internal", "*.corp.example"). A host's addresses are not judged."""
    timeout_s: Seconds = 30.0
    """For the whole, redirects and the wait for a place included."""
    connect_timeout_s: Seconds = 5.0
    """For each address of a host, and for looking it up."""
    silence_timeout_s: Seconds = 10.0
    redirects_max: Annotated[int, Meta(ge=0)] = 5


class HttpUpstream(Section, frozen=True, kw_only=True):
    """A model server, and how to deal with it."""

    url: HttpUrl
    """Base address, with its /v1."""
    key: str = ""
    key_env: str = ""
    models: tuple[str, ...] = ()
    """Serve only these; empty: all that the upstream lists."""
    efforts: tuple[Effort, ...] = ()
    """The values of reasoning.effort that it knows: of others it is told the nearest. Empty: each as it was asked."""
    connect_timeout_s: Seconds = 10.0
    silence_timeout_s: Seconds = 600.0
    """No byte for this long ends the call. There is no limit on the whole."""
    attempts_max: Positive = 3
    """Tries before the first token, for failures that another try may mend."""


class ChatUpstream(HttpUpstream, frozen=True, kw_only=True, tag_field="kind", tag="chat"):
    """Any server of POST /v1/chat/completions."""

    reasoning_field: Literal["reasoning_content", "reasoning"] | None = "reasoning_content"
    """Under which name thoughts of earlier turns are sent back; "null": not at all. Both names are read."""


class ResponsesUpstream(HttpUpstream, frozen=True, kw_only=True, tag_field="kind", tag="responses"):
    """Any server of POST /v1/responses: vLLM, OpenAI, another antiphon."""


class LocalModel(Section, frozen=True, kw_only=True, tag_field="kind", tag="local"):
    """A GGUF model in a llama.cpp worker process on this machine."""

    path: str
    """A .gguf file, or a Hugging Face id, "owner/name" or "owner/name:FILE.gguf"."""
    name: str = ""
    """The name it is served under; empty: the file's."""
    context_tokens: Annotated[int, Meta(ge=0)] = 0
    """0: what the model was trained for, as far as memory allows."""
    slots: Positive = 4
    """Requests decoded at once."""
    threads: Annotated[int, Meta(ge=0)] = 0
    """0: one per physical core this process may use."""
    gpu_layers: int | None = None
    """None: llama.cpp decides."""
    temperature: float | None = None
    """Used when a request gives none; None: llama.cpp's own default."""
    start_timeout_s: Seconds = 600.0
    silence_timeout_s: Seconds = 600.0


class ScriptedModel(Section, frozen=True, kw_only=True, tag_field="kind", tag="scripted"):
    """A deterministic model for tests: see docs of models/scripted.py."""

    name: str = "scripted"


ModelSettings: TypeAlias = ChatUpstream | ResponsesUpstream | LocalModel | ScriptedModel


class Documents(Section, frozen=True, kw_only=True):
    """Text out of documents that come with requests. Each is read by a process of its own, within these bounds."""

    enabled: bool = True
    bytes_max: Positive = 50 * 1024 * 1024
    """One document as it comes; the original takes 50 MB."""
    timeout_s: Seconds = 20.0
    """For one document, by the clock as in CPU time: a 30-page PDF takes a tenth of a second."""
    memory_bytes_max: Annotated[int, Meta(ge=128 * 1024 * 1024)] = 1024 * 1024 * 1024
    """Address space of one process. A library and its code take some 100 MB of it."""
    unpacked_bytes_max: Positive = 256 * 1024 * 1024
    """What the members of an office file's archive may say that they unpack to, all together; more is never read."""
    members_max: Positive = 10_000
    pages_max: Positive = 2_000
    """Pages, sheets or slides."""
    cells_max: Positive = 500_000
    """In all sheets, empty ones inside a row included."""
    chars_max: Positive = 4_000_000
    """Text of one document: a million tokens, more than models take."""
    processes_max: Positive = 2
    """Documents read at once: each keeps one core busy."""
    waiting_max: Annotated[int, Meta(ge=0)] = 64
    """Documents waiting for their turn, each whole in memory; beyond it 429."""


class TemplateMessage(Section, frozen=True, kw_only=True):
    role: Literal["user", "assistant", "system", "developer"] = "user"
    content: str


class PromptTemplate(Section, frozen=True, kw_only=True):
    """A prompt that requests use by `prompt: {id, version, variables}`. `{{name}}` in its texts is a variable."""

    id: Annotated[str, Meta(min_length=1)]
    version: str = "1"
    """A request that names none gets the last one of its id in the file."""
    model: str = ""
    instructions: str = ""
    messages: tuple[TemplateMessage, ...] = ()


class ScriptedToolSettings(Section, frozen=True, kw_only=True):
    enabled: bool = False


class Tools(Section, frozen=True, kw_only=True):
    scripted: ScriptedToolSettings = ScriptedToolSettings()


class Settings(Section, frozen=True, kw_only=True):
    server: Server = Server()
    storage: Storage = Storage()
    auth: Auth = Auth()
    sealing: Sealing = Sealing()
    cors: Cors = Cors()
    limits: Limits = Limits()
    fetch: Fetch = Fetch()
    models: tuple[ModelSettings, ...] = ()
    """Empty: the built-in demonstration model."""
    tools: Tools = Tools()
    documents: Documents = Documents()
    prompts: tuple[PromptTemplate, ...] = ()


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
