"""docs/compatibility.toml against the server: every probe over HTTP, every name of the `openai` package, the page."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import reduce
from operator import or_
from typing import Any, TypeAlias, get_args

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from msgspec import structs
from openai.types import responses
from openai.types.responses import response_create_params, response_includable, response_input_item_param
from pydantic import TypeAdapter

from antiphon import errors
from antiphon.config import McpServer, McpSettings, PromptTemplate, StaticKey, WebSearch
from antiphon.wire import events, items
from antiphon.wire.response import Response
from tests.compatibility import PAGE, SHOWN, Entry, Object, Probe, See, State, load, merged, render, shown
from tests.conftest import changed, serve
from tests.mcpserver import Remote
from tests.rawclient import Answer, ask, parsed, scripted_in
from tests.test_api_requests import mutants
from tests.test_schema import fields
from tests.test_tidy import ROOT, SOURCE

pytestmark = pytest.mark.asyncio(loop_scope="module")

Urls: TypeAlias = dict[str, str]
MANIFEST = load()
ENTRIES = {f"{surface}: {name}": entry for surface, (_, entries) in MANIFEST.items() for name, entry in entries.items()}
UNPROBED_MAX = 16
KEY = "sk-probe-0123456789abcdef"
TOLD = ("antiphon-ignored-parameters", "antiphon-omitted-tools")
"""Headers that say what was passed over: none may come unforeseen."""


def names(surface: str, *states: State) -> set[str]:
    return {name for name, entry in MANIFEST[surface][1].items() if not states or entry.state in states}


def whole(surface: str, *states: State) -> set[str]:
    """Without the names of parts of others."""
    known = names(surface, *states)
    return {name for name in known if name.rpartition(".")[0] not in known}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Urls]:
    greeting = PromptTemplate(id="greeting", instructions="Greet {{name}}.")
    settings = structs.replace(scripted_in(tmp_path_factory.mktemp("compatibility")), prompts=(greeting,))
    pages = tmp_path_factory.mktemp("pages")
    (pages / "hello.md").write_text("# Greetings\nhello is a greeting", "utf-8")
    async with AsyncExitStack() as stack:
        docs = await stack.enter_async_context(Remote().serving())
        servers = (McpServer(label="docs", url=docs.url), McpServer(label="gone", url="http://127.0.0.1:9/"))
        settings = changed(settings, tools={"mcp": McpSettings(servers=servers)})
        kinds = {
            "open": settings,
            "keys": changed(settings, auth={"keys": (StaticKey(key=KEY),)}),
            "web": changed(settings, tools={"web_search": WebSearch(backend="local", folder=str(pages))}),
            "strict": changed(settings, server={"strict": True}, limits={"image_bytes_max": 64}),
        }
        yield {name: await stack.enter_async_context(serve(one)) for name, one in kinds.items()}


# -- a probe


async def tried(urls: Urls, probe: Probe) -> Answer:
    """The answer, in which the id that `first` made is {id} again."""
    url, made = urls[probe.server], "{id}"
    if probe.first is not None:
        first = request(probe.first) if probe.at == "/v1/responses" else probe.first
        made = _id_of(await ask(url, "POST", probe.at, first))
    if probe.prior is not None:
        made = (await ask(url, "POST", probe.prior.path, probe.prior.body, probe.prior.headers)).value["id"]
    body: Object | str | None = probe.body
    if body is None and probe.method == "POST":
        body = request(probe.send or {})
    sent = json.loads(json.dumps(body).replace("{id}", made))
    answer = await ask(url, probe.method, probe.path.replace("{id}", made), sent, probe.headers)
    return answer._replace(body=answer.body.replace(made.encode(), b"{id}"))


def _id_of(answer: Answer) -> str:
    """Of what was made, or of the response that was streamed."""
    first = answer.body.partition(b"\ndata: ")[2].partition(b"\n")[0]
    return str(json.loads(first)["response"]["id"] if answer.body.startswith(b"event:") else answer.value["id"])


def request(send: Object) -> Object:
    return {"model": "scripted", "input": "say hello", **send}


def disagreements(state: State, see: See, answer: Answer) -> Iterator[str]:
    """What must be seen and is not."""
    refuses = state in {"later", "refused"} and see.status is None
    status = see.status or (400 if refuses else 200)
    if answer.status != status:
        yield f"the status is {answer.status}, not {status}: {answer.body[:300]!r}"
        return
    if status >= 400:
        expected = (status, see.code or "unsupported_parameter", see.param or "null")
        given = tuple("null" if one is None else one for one in answer.refusal)
        if given != expected:
            yield f"the refusal is {given}, not {expected}"
    else:
        yield from _of_headers(see, answer)
        yield from _of_stream(see, answer) if answer.body.startswith(b"event:") else _of_value(see, answer.value)
    for name, value in see.headers.items():
        if answer.headers.get(name) != value and not (value == "*" and name in answer.headers):
            yield f"the header {name} is {answer.headers.get(name)!r}, not {value!r}"


def _of_headers(see: See, answer: Answer) -> Iterator[str]:
    for name in TOLD:
        if name in answer.headers and name not in see.headers:
            yield f"{name}: {answer.headers[name]}"


def _of_value(see: See, value: Any) -> Iterator[str]:
    for path, expected in see.json.items():
        found = at(value, path)
        if found != expected or isinstance(found, bool) is not isinstance(expected, bool):
            yield f"{path} is {found!r}, not {expected!r}"
    if missing := [name for name in see.has if name not in value]:
        yield f"no {', '.join(missing)} in {sorted(value)}"
    output = value.get("output", [])
    if see.text is not None and (text := "".join(texts(output))) != see.text:
        yield f"the text is {text!r}, not {see.text!r}"
    kinds = [item["type"] for item in output]
    if unmade := [kind for kind in see.items if kind not in kinds]:
        yield f"no {', '.join(unmade)} among {kinds}"
    if see.events or see.fields or see.lacks:
        yield "the answer is no stream"


def _of_stream(see: See, answer: Answer) -> Iterator[str]:
    frames = parsed(answer.body)
    told = [frame.data for frame in frames if isinstance(frame.data, dict)]
    kinds = [one.get("type") or one.get("object") for one in told]
    if missing := [kind for kind in see.events if kind not in kinds]:
        yield f"no {', '.join(missing)} among {kinds}"
    for wanted, is_there in ((see.fields, True), (see.lacks, False)):
        for kind, field in wanted.items():
            found = [field in one for one in told if one.get("type") == kind]
            if not found or any(one is not is_there for one in found):
                yield f"{field} in {kind}: {found}"
    if see.json or see.has or see.text is not None or see.items:
        yield "the answer is a stream"


def at(value: Any, path: str) -> Any:
    """What stands at `output[0].content`, or "nothing"."""
    for step in re.findall(r"[^.\[\]]+", path):
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return "nothing"
    return value


def texts(output: list[Any]) -> Iterator[str]:
    for item in output:
        if item["type"] == "message":
            yield from (part.get("text", "") for part in item["content"])


# -- every line of the manifest


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.probes])
async def test_the_server_does_what_the_manifest_says(urls: Urls, name: str) -> None:
    entry = ENTRIES[name]
    found = [line for probe in entry.probes for line in disagreements(entry.state, probe.see, await tried(urls, probe))]

    assert bool(found) is entry.pending, found or "it is there now: `pending` can go"


@pytest.mark.parametrize(
    ("state", "see"),
    [
        ("done", See(text="goodbye")),
        ("done", See(json={"status": "failed"})),
        ("done", See(json={"output[1]": {}})),
        ("done", See(json={"store": 1})),
        ("done", See(items=("reasoning",))),
        ("done", See(has=("id", "conversation"))),
        ("done", See(events=("response.created",))),
        ("done", See(headers={"x-request-id": "none"})),
        ("done", See(headers={"retry-after": "*"})),
        ("later", See(param="input")),
        ("refused", See(param="input")),
        ("done", See(status=400, code="null", param="input")),
    ],
)
async def test_a_probe_that_is_not_met_is_told(urls: Urls, state: State, see: See) -> None:
    answer = await tried(urls, Probe())

    assert len(list(disagreements(state, see, answer))) == 1
    assert list(disagreements("done", See(text="hello"), answer)) == []


@pytest.mark.parametrize(
    ("send", "see"),
    [
        ({"colour": 1}, See(text="hello")),
        ({"tools": [{"type": "web_search"}]}, See(text="hello")),
        ({"stream": True}, See(events=("response.failed",))),
        ({"stream": True}, See(fields={"response.output_text.delta": "shade"})),
        ({"stream": True}, See(lacks={"response.output_text.delta": "delta"})),
        ({"stream": True}, See(lacks={"response.failed": "delta"})),
        ({"stream": True}, See(text="hello")),
        ({"moderation": {}}, See(status=400, code="unsupported_parameter", param="input")),
        ({"moderation": {}}, See(status=400, code="null", param="moderation")),
    ],
)
async def test_what_is_passed_over_or_told_otherwise_is_a_disagreement(urls: Urls, send: Object, see: See) -> None:
    assert len(list(disagreements("done", see, await tried(urls, Probe(send=send))))) == 1


async def test_a_probe_shows_its_state() -> None:
    """At least one answer of what is done is no refusal; what is refused is refused."""
    for name, entry in ENTRIES.items():
        statuses = [probe.see.status or (200 if entry.state == "done" else 400) for probe in entry.probes]
        if entry.probes and not name.startswith("errors: "):
            assert any((status == 200) is (entry.state == "done") for status in statuses), name


async def test_every_entry_is_probed_or_says_why_not() -> None:
    unprobed = [entry.unprobed for entry in ENTRIES.values() if entry.unprobed]

    assert len(unprobed) <= UNPROBED_MAX
    for why in unprobed:
        seen = re.findall(r"tests/\w+\.py", why)
        assert seen, why
        assert all((ROOT / path).exists() for path in seen), why
    assert [name for name, entry in ENTRIES.items() for probe in entry.probes if probe.see == See()] == []


async def test_every_note_is_a_sentence() -> None:
    assert [name for name, entry in ENTRIES.items() if not re.fullmatch(r"[A-Z0-9`].*[.]", entry.note)] == []


async def test_the_page_is_what_the_manifest_renders_to() -> None:
    assert PAGE.read_text("utf-8") == render(MANIFEST), "run make docs"
    assert SHOWN.read_text("utf-8") == shown(MANIFEST), "run make docs"


# -- every name of the package

EXTENSIONS: dict[str, set[str]] = {
    "parameters": {"expires_after", "generate", "stream_id", "multi_agent"},  # of the WebSocket, and of a beta
    "items": {"antiphon:scripted_call", "antiphon:tool_call"},
    "parts": {"input_audio", "computer_screenshot"},  # in the package, and in no union of it
    "tools": {"antiphon:scripted", "antiphon:tool"},
    "choices": {"web_search"},
    "response": {"expires_at", "frequency_penalty", "presence_penalty", "store"},  # of Open Responses
    "outputs": {"antiphon:scripted_call", "antiphon:tool_call"},
    "events": {
        *(f"response.antiphon:scripted_call.{status}" for status in ("in_progress", "searching", "completed")),
        *(f"response.antiphon:tool_call.{status}" for status in ("in_progress", "completed", "failed")),
    },
}
"""Names that are not the package's."""
STATUSES = {
    *(f"response.web_search_call.{status}" for status in ("in_progress", "searching", "completed")),
    *(f"response.{kind}.{status}" for kind in ("mcp_call", "mcp_list_tools")
      for status in ("in_progress", "completed", "failed")),
}  # fmt: skip
"""Events of hosted calls, for which the wire has one type."""


def tags(*kinds: Any) -> set[str]:
    """The values of `type` of the members of a union, and the words in it."""
    schema = TypeAdapter(reduce(or_, kinds)).json_schema()
    words = {str(word) for one in schema.get("anyOf", [schema]) for word in one.get("enum", ())}
    objects = {**schema, "anyOf": [one for one in schema.get("anyOf", [schema]) if "enum" not in one]}
    return words | {value.strip("'") for value in fields(objects, schema)["type"] if value[0] == "'"}


PARAMETERS = TypeAdapter(response_create_params.ResponseCreateParams).json_schema()
PACKAGE: dict[str, set[str]] = {
    "parameters": set(fields(PARAMETERS, PARAMETERS)),
    "includes": set(get_args(response_includable.ResponseIncludable)),
    "formats": tags(responses.ResponseFormatTextConfigParam),
    "items": tags(response_input_item_param.ResponseInputItemParam),
    "parts": tags(
        responses.ResponseInputContentParam,
        *(responses.ResponseOutputTextParam, responses.ResponseOutputRefusalParam),
        *(responses.response_reasoning_item_param.Summary, responses.response_reasoning_item_param.Content),
    ),
    "tools": tags(responses.ToolParam),
    "choices": tags(response_create_params.ToolChoice),
    "response": set(responses.Response.model_fields),
    "outputs": tags(responses.ResponseOutputItem),
    "events": tags(responses.ResponseStreamEvent),
}


@pytest.mark.parametrize("surface", PACKAGE)
async def test_the_manifest_has_every_name_of_the_package_and_no_other(surface: str) -> None:
    named = names(surface) if surface in {"includes", "events"} else whole(surface)

    assert named ^ (PACKAGE[surface] | EXTENSIONS.get(surface, set())) == set()


ELSEWHERE = {"input", "tools", "tool_choice", "metadata", "include", "text.format.schema"}
"""Parameters whose inside is another surface, or the client's own."""


def inside(path: str) -> set[str]:
    """The fields of an object of the package."""
    schema = PARAMETERS
    for step in path.split("."):
        schema = joined(schema)["properties"][step]
    return set(joined(schema).get("properties", {})) - {"type"}


def joined(schema: Object) -> Object:
    """The object in a schema; of a union, all its objects together."""
    while "$ref" in schema:
        schema = PARAMETERS["$defs"][schema["$ref"].rpartition("/")[2]]
    members = [joined(member) for union in ("anyOf", "oneOf") for member in schema.get(union, ())]
    return reduce(merged, members, {key: value for key, value in schema.items() if key == "properties"})


@pytest.mark.parametrize("path", sorted(names("parameters", "done") - EXTENSIONS["parameters"] - ELSEWHERE))
async def test_the_manifest_has_every_part_of_a_parameter_that_is_done(path: str) -> None:
    prefix = f"{path}."
    named = {name.removeprefix(prefix).partition(".")[0] for name in names("parameters") if name.startswith(prefix)}

    assert named == inside(path)


TOOLS: dict[str, Any] = {
    "function": responses.FunctionToolParam,
    "custom": responses.CustomToolParam,
    "namespace": responses.NamespaceToolParam,
    "tool_search": responses.ToolSearchToolParam,
    "shell": responses.FunctionShellToolParam,
    "apply_patch": responses.ApplyPatchToolParam,
    "local_shell": responses.tool_param.LocalShell,
    "computer": responses.ComputerToolParam,
    "mcp": responses.tool_param.Mcp,
    "web_search": responses.WebSearchToolParam,
    "web_search_preview": responses.WebSearchPreviewToolParam,
}

OURS = {"web_search": {"filters.blocked_domains"}}
"""Fields that are not the package's."""


@pytest.mark.parametrize("kind", TOOLS)
async def test_the_manifest_has_every_field_of_a_tool_that_is_served(kind: str) -> None:
    named = {name.partition(".")[2] for name in names("tools") if name.startswith(f"{kind}.")}

    assert named == set(TypeAdapter(TOOLS[kind]).json_schema()["properties"]) - {"type"} | OURS.get(kind, set())


async def test_every_tool_that_is_done_has_its_fields_compared() -> None:
    named = {name for name in names("tools", "done") if "." not in name}

    assert named - TOOLS.keys() == {
        *("computer_use_preview", "antiphon:scripted", "antiphon:tool"),  # whose fields the probe has all
        *("web_search_2025_08_26", "web_search_preview_2025_03_11"),  # other names
    }


async def test_what_is_never_sent_is_no_wire_type_and_what_is_sent_is() -> None:
    kinds = {kind.__struct_config__.tag for kind in get_args(items.OutputItem)}
    told = {kind.__struct_config__.tag for kind in get_args(events.TaggedEvent)}

    assert names("response", "done") == set(Response.__struct_encode_fields__)
    assert names("outputs", "done") == kinds
    assert names("events", "done") == told | EXTENSIONS["events"] | STATUSES


# -- what the server itself knows


async def test_every_path_that_is_served_is_done_in_the_manifest(urls: Urls) -> None:
    document = json.loads((await ask(urls["open"], "GET", "/openapi.json")).body)
    served = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    done = {name for name in names("paths", "done") if "?" not in name and not MANIFEST["paths"][1][name].pending}
    of_v1 = {path for path in served if "/openresponses/" not in path}

    assert done == of_v1 | {"GET /openapi.json", "/openresponses/v1/…"}
    assert {path.replace("/openresponses", "") for path in served} == of_v1


async def test_every_code_of_an_error_stands_in_the_manifest() -> None:
    source = "\n".join(path.read_text("utf-8") for path in SOURCE)
    codes = set(re.findall(r'\bcode(?:: str \| None)? ?= ?"(\w+)"', source))

    assert {"previous_response_not_found", "prompt_not_found"} <= codes
    assert sorted(codes - names("errors")) == []
    assert issubclass(errors.PreviousResponseNotFound, errors.InvalidRequest)


# -- no wrong type is accepted in silence

WRONG = [{"wrong": [5]}]
"""No parameter may be this."""
ODD: list[Any] = [WRONG, {"wrong": [5]}, "wrong", 5.5, -7, True, [], ["wrong"], {}]
NOT_BODIES = {name for name in names("dialects") if not re.fullmatch(r"[a-z_.]+", name)} | {"tool_calls"}
PATHS = [("parameters", path) for path in names("parameters")] + [
    ("dialects", path) for path in names("dialects") - NOT_BODIES
]


def put(entry: Entry, path: str, value: Any) -> Object:
    """The entry's own request, with this value at its path."""
    for step in reversed(path.split(".")):
        value = {step: value}
    return request(merged(entry.send or {}, value))


def named_by(param: str | None, path: str) -> bool:
    return param is not None and (param == path or param.startswith((f"{path}.", f"{path}[")))


@pytest.mark.parametrize(("surface", "path"), sorted(PATHS))
async def test_a_wrong_type_is_refused_by_the_parameters_name(urls: Urls, surface: str, path: str) -> None:
    entry = MANIFEST[surface][1][path]
    for value in ODD:
        answer = await ask(urls["open"], "POST", "/v1/responses", put(entry, path, value))
        if answer.status == 200 and value is not WRONG:
            continue
        assert answer.status in {400, 404, 502}, (value, answer)
        if answer.status == 400:
            assert named_by(answer.refusal[2], path), (value, answer)
        assert value is not WRONG or answer.status == 400, answer


BODIES = [
    request(probe.send)
    for entry in ENTRIES.values()
    for probe in entry.probes
    if probe.send is not None and probe.path == "/v1/responses"
]


@given(body=mutants(BODIES))
@trying(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_what_is_nearly_a_probe_is_served_or_refused(urls: Urls, body: Any) -> None:
    answer = await ask(urls["open"], "POST", "/v1/responses", body)

    assert answer.status == 200 or answer.refusal[0] in {400, 404} or is_of_the_model(answer)


def is_of_the_model(answer: Answer) -> bool:
    """Whether the model is to blame: the scripted one says what it is told to."""
    return answer.status == 502 and answer.error["message"].startswith(("The model's ", "The scripted model failed"))
