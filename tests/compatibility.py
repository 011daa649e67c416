"""The compatibility manifest, docs/compatibility.toml, read and rendered. Asks no server: test_compatibility.py does.

python -m tests.compatibility        writes docs/compatibility.md anew, and what the console shows of the manifest
"""

import copy
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

Object: TypeAlias = dict[str, Any]
State: TypeAlias = Literal["done", "refused", "later", "never"]

DOCS = Path(__file__).parent.parent / "docs"
MANIFEST = DOCS / "compatibility.toml"
PAGE = DOCS / "compatibility.md"
SHOWN = DOCS.parent / "src" / "antiphon" / "console" / "manifest.json"


class See(Struct, frozen=True, forbid_unknown_fields=True):
    """What must be seen. `code` and `param` are the error's; the word "null" stands for null, which TOML lacks."""

    status: int | None = None
    code: str | None = None
    param: str | None = None
    json: Object = {}
    """Path -> value, in the answer; "nothing" where nothing stands."""
    has: tuple[str, ...] = ()
    """Fields that the answer has."""
    text: str | None = None
    """All that the answer says."""
    items: tuple[str, ...] = ()
    """Types that the answer's output has."""
    events: tuple[str, ...] = ()
    """Types that the stream has."""
    fields: dict[str, str] = {}
    """Type -> a field that every event of the type has."""
    lacks: dict[str, str] = {}
    """Type -> a field that no event of the type has."""
    headers: dict[str, str] = {}
    """Header -> its value, or "*" for any."""


class Prior(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request that must be served before another."""

    path: str
    headers: dict[str, str] = {}
    body: str


class Probe(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request and what must be seen. `{id}` in it is the id of the response that `first` made, or of what `prior`
    made."""

    method: str = "POST"
    path: str = "/v1/responses"
    server: Literal["open", "keys", "web", "strict"] = "open"
    """One that wants keys, one that can search, and one that is strict, besides the usual one."""
    headers: dict[str, str] = {}
    first: Object | None = None
    at: str = "/v1/responses"
    """Where `first` is sent; as it stands, where that is elsewhere."""
    prior: Prior | None = None
    send: Object | None = None
    """Fields of the request's body, besides a model and an input."""
    body: str | None = None
    """The whole body, where it is no such request."""
    see: See = See()


class Entry(Probe, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A name of the API, and what becomes of it here. An entry is a probe, and has more of them in `also`."""

    state: State
    note: str
    also: tuple[Probe, ...] = ()
    pending: bool = False
    """Somebody is at it: what must be seen is not seen yet."""
    unprobed: str = ""
    """Why it has no probe."""

    @property
    def probes(self) -> tuple[Probe, ...]:
        return () if self.unprobed or self.state == "never" else (self, *self.also)


class Surface(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the page. `default` holds, for a state, what its entries need not repeat; `{name}` is theirs."""

    title: str
    about: str
    default: dict[State, Object] = {}


Manifest: TypeAlias = dict[str, tuple[Surface, dict[str, Entry]]]


def load() -> Manifest:
    raw = tomllib.loads(MANIFEST.read_text("utf-8"))
    surfaces = msgspec.convert(raw.pop("surface"), dict[str, Surface])
    assert raw.keys() == surfaces.keys()
    return {name: (surface, dict(_entries(surface, raw[name]))) for name, surface in surfaces.items()}


def _entries(surface: Surface, raw: Object) -> Iterator[tuple[str, Entry]]:
    for name, fields in raw.items():
        default = _named(surface.default.get(fields["state"], {}), name)
        yield name, msgspec.convert(merged(default, fields), Entry)


def _named(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {_named(key, name): _named(field, name) for key, field in value.items()}
    if isinstance(value, list):
        return [_named(element, name) for element in value]
    return value.replace("{name}", name) if isinstance(value, str) else value


def merged(under: Object, over: Object) -> Object:
    """Deeply; where both say something, `over` counts."""
    both = copy.deepcopy(under)
    for name, value in over.items():
        inner = both.get(name)
        both[name] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return both


# -- the page

HEAD = """\
# What of the Responses API this server does

antiphon is a server for [OpenAI's Responses API](https://platform.openai.com/docs/api-reference/responses). This page
says, name by name, what becomes of everything that the API has: each path, parameter, item, tool, event and error. It
is written by machine from [compatibility.toml](compatibility.toml) (`make docs`), and the tests try it on a running
server, line by line, so that it cannot say what is not so; the file says of the few lines that cannot be tried why.

**Nothing that would change an answer is passed over in silence.** What is not done is refused with status 400, and the
error names the parameter. Two things are let pass, and the answer says so: fields that the API does not know (header
`antiphon-ignored-parameters`), and hosted tools (which a server runs itself, such as web search) that are offered but
that this server cannot run (header `antiphon-omitted-tools`). With `[server] strict = true` these are refused as well.

| | |
|---|---|
| ✅ done | it works as the API says |
| ⏳ later | refused for now, by name: it waits for what the note says |
| ⛔ refused | refused by name: it makes no sense on a server of one's own, or nobody has asked for it |
| ➖ never | this server never sends it |
"""
PENDING = "| 🚧 | beside a mark: somebody is at it, and it is not there yet |\n"
MARKS: dict[State, str] = {"done": "✅", "later": "⏳", "refused": "⛔", "never": "➖"}


def render(manifest: Manifest) -> str:
    counted = [entry.state for _, entries in manifest.values() for entry in entries.values()]
    counts = ", ".join(f"{counted.count(state)} {state}" for state in MARKS)
    index = "\n".join(f"- [{surface.title}](#{_anchor(surface.title)})" for surface, _ in manifest.values())
    tables = (_table(surface, entries) for surface, entries in manifest.values())
    pending = PENDING if any(entry.pending for _, entries in manifest.values() for entry in entries.values()) else ""
    return f"{HEAD}{pending}\nOf {len(counted)} names: {counts}.\n\n{index}\n" + "".join(tables)


def _anchor(title: str) -> str:
    kept = "".join(char for char in title.lower() if char.isalnum() or char in " -_")
    return kept.replace(" ", "-")


def _table(surface: Surface, entries: dict[str, Entry]) -> str:
    rows = "".join(
        f"| `{name}` | {MARKS[entry.state]}{' 🚧' if entry.pending else ''} | {entry.note.replace('|', '&#124;')} |\n"
        for name, entry in entries.items()
    )
    return f"\n## {surface.title}\n\n{surface.about}\n\n| name | | what it does here |\n|---|---|---|\n{rows}"


# -- what the console shows

SHOWN_CHARS_MAX = 2_000
"""A longer request shows a limit, and nobody wants to read it."""


def shown(manifest: Manifest) -> str:
    """As JSON, a name a line, so that two changes of it can be merged. Each has the request that shows it."""
    surfaces = []
    for key, (surface, entries) in manifest.items():
        names = ",\n".join(f"  {_json(name)}: {_json(_told(entry))}" for name, entry in entries.items())
        head = f'{_json(key)}: {{"title": {_json(surface.title)}, "about": {_json(surface.about)}, "names": {{'
        surfaces.append(f"{head}\n{names}\n}}}}")
    return "{\n" + ",\n".join(surfaces) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _told(entry: Entry) -> Object:
    told: Object = {"state": entry.state, "note": entry.note}
    if entry.unprobed or entry.state == "never":
        return told
    asked = {"method": entry.method, "path": entry.path, "headers": entry.headers, "body": _body(entry)}
    request = {name: value for name, value in asked.items() if value and (name, value) not in USUAL}
    return told | {"request": request} if len(_json(request)) <= SHOWN_CHARS_MAX else told


USUAL = (("method", "POST"), ("path", "/v1/responses"))


def _body(entry: Entry) -> Object | str | None:
    """Without scripts, which the scripted model alone reads."""
    if entry.body is not None or not entry.send:
        return entry.body
    return {name: value for name, value in entry.send.items() if name != "input" or not isinstance(value, str)}


if __name__ == "__main__":
    page = load()
    PAGE.write_text(render(page), "utf-8")
    SHOWN.write_text(shown(page), "utf-8")
