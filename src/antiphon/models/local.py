"""A GGUF model on this machine, behind the port Model: where its file comes from, its worker process, what it is asked.

    settings --prepared--> a file --Supervisor--> a running worker process
    Prompt --request--> body --Upstream--> payloads --ChunkReader--> deltas --Answer--> deltas

Knows llama.cpp's ways; refuses to know how its process is spoken to (llama_worker.py) and the chat API (chat.py).
Three promises are kept here because llama.cpp does not keep them: a call that is required comes, its arguments fit
their schema, and `parallel_tool_calls: false` means one call. Pitfalls are numbered as in docs/llama-cpp.md.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, suppress
from importlib import import_module
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, structs

from antiphon.config import Limits
from antiphon.config import LocalModel as Settings
from antiphon.core.deltas import Delta, Finish, Text, ToolCall
from antiphon.core.ports import Check, ModelCard
from antiphon.core.prompt import Named, Offer, Prompt
from antiphon.errors import ApiError, InvalidRequest, ModelError, SettingsError
from antiphon.models import tiny
from antiphon.models.chat import ChunkReader, Object, chat_request
from antiphon.models.llama_worker import Opening, Ready, Supervisor, Template, Wanted, Worker, WorkerFailed
from antiphon.models.upstream import Upstream
from antiphon.wire.response import InputTokensDetails, Usage

TINY_NAME = "antiphon-tiny"
DEMONSTRATION = (
    f"{TINY_NAME} is built in for demonstration and tests: it knows nothing and is no assistant. "
    "For real answers: antiphon serve --model PATH.gguf, or antiphon serve --upstream URL"
)
"""What start-up says when no model is configured."""

TINY_ANSWER_TOKENS = 1024
"""The longest answer of the built-in model, which a request may raise: off its track it repeats itself to the end."""
CALLS_MAX = 32
"""Calls in one required answer: a model that would call for ever must end."""
DEATH_NOTICE_S = 0.5
"""A broken connection is often seen before the end of the process that held it."""
EFFORTS = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}
"""Templates that take an effort know three."""
HEAD_CHARS_MAX = 4096
"""Text in which the head of a call must begin and end; names are far shorter. More is no call."""

_log = logging.getLogger("antiphon.local")


def builtin() -> Settings:
    """The model that serves when none is configured; never in the place of one that was."""
    return Settings(path=str(tiny.path()), name=TINY_NAME, context_tokens=8192, threads=1, temperature=0.0)


class LocalModel:
    """One model, in one worker process. Constructing it downloads what the settings name and is not yet here."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings = prepared(settings)
        self._is_tiny = Path(self._settings.path) == tiny.path()
        self._made_at = int(Path(self._settings.path).stat().st_mtime)
        self._limits = limits
        self._wanted = msgspec.convert(self._settings, Wanted, from_attributes=True)
        self._supervisor = Supervisor(self._wanted, start_timeout_s=self._settings.start_timeout_s)
        self._upstream: Upstream | None = None

    async def start(self) -> None:
        """Loads the model now, rather than at the first request. Raises SettingsError when it cannot be loaded."""
        try:
            await self._engine()
        except ModelError as error:
            raise SettingsError(error.message) from error

    async def cards(self) -> Sequence[ModelCard]:
        owner = "antiphon" if self._is_tiny else "local"
        return [ModelCard(id=self._settings.name, created=self._made_at, owned_by=owner)]

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        worker, upstream = await self._engine()
        body, answer = await self._turn(prompt, worker.ready.template)
        try:
            async with aclosing(_said(upstream, body, answer)) as batches:
                async for batch in batches:
                    yield batch
        except (InvalidRequest, ModelError) as error:
            if bad := _blamed(error, prompt.tools):
                raise bad from error
            if isinstance(error, ModelError) and (how := await worker.ended_within(DEATH_NOTICE_S)):
                raise ModelError(
                    f"The worker process of the model {self._settings.name} failed while it answered ({how}). "
                    "It is started again; please retry."
                ) from error
            raise

    async def check(self) -> Check:
        name = f"local model {self._settings.name}"
        try:
            worker, upstream = await self._engine()
            await upstream.get("/health")
        except ApiError as error:
            remedy = "Check the file and the memory it needs, or serve another: antiphon serve --model PATH.gguf"
            return Check(name=name, ok=False, detail=error.message, remedy=remedy)
        ready = worker.ready
        where = f"process {worker.pid}, threads: {ready.threads}, devices: {', '.join(ready.devices)}"
        return Check(name=name, ok=True, detail=f"Its worker runs ({where}) with {self._settings.path}.")

    async def close(self) -> None:
        await self._supervisor.close()
        if self._upstream is not None:
            await self._upstream.close()

    async def _engine(self) -> tuple[Worker, Upstream]:
        """The running worker, and the way to speak to it: each has its own port."""
        try:
            worker = await self._supervisor.worker()
        except WorkerFailed as failure:
            raise ModelError(f"The model {self._settings.name} cannot run: {failure}.") from failure
        if self._upstream is None or self._upstream.url != worker.ready.address:
            former, self._upstream = self._upstream, self._connected(worker.ready)
            if former is not None:
                await former.close()
        return worker, self._upstream

    async def _turn(self, prompt: Prompt, template: Template) -> "tuple[Object, Answer]":
        for tool in prompt.tools:
            _check_takes_object(prompt.tools, tool)
        default = False if self._is_tiny else None
        is_thinking = default if prompt.effort is None else prompt.effort not in ("none", "minimal")
        body = request(prompt, self._settings.temperature, is_thinking)
        if self._is_tiny:
            body.setdefault("max_tokens", TINY_ANSWER_TOKENS)
        if prompt.tool_choice == "required" or isinstance(prompt.tool_choice, Named):
            # In a thread: a schema is compiled in a millisecond, but a huge one takes long.
            body |= await asyncio.to_thread(forced, prompt, template.tags_calls, template.opening(is_thinking))
            return body, ForcedCalls()
        if prompt.tools and not prompt.parallel_tool_calls:
            return body | {"timings_per_token": True}, OneCall()
        return body, Answer()

    def _connected(self, ready: Ready) -> Upstream:
        return Upstream(
            ready.address,
            key=self._wanted.key,
            connect_timeout_s=10.0,
            silence_timeout_s=self._settings.silence_timeout_s,
            attempts_max=1,
            line_bytes_max=self._limits.upstream_line_bytes_max,
            reuse_connections=False,  # 18 of 80 answers were lost to a race in its keep-alive (pitfall 12)
        )


# -- one turn


async def _said(upstream: Upstream, body: Object, answer: "Answer") -> AsyncGenerator[list[Delta], None]:
    """Closing it closes the connection, which frees the engine's slot."""
    reader = ChunkReader()
    async with aclosing(upstream.post_events("/v1/chat/completions", msgspec.json.encode(body))) as reads:
        async for payloads in reads:
            if deltas := answer.read(reader.feed(payloads), payloads):
                yield deltas
            reader.check()
            if answer.is_over:
                return
    if deltas := answer.read(reader.end(), []):
        yield deltas


def request(prompt: Prompt, temperature: float | None, is_thinking: bool | None) -> Object:
    """The body for llama.cpp. Its server has two more fields than others, and effort is an argument of the template."""
    if prompt.tool_choice == "none":  # llama.cpp would show them, and pass on the calls it gets as text
        prompt = structs.replace(prompt, tools=())
    body = chat_request(prompt, reasoning_field="reasoning_content")
    body.setdefault("temperature", temperature)
    # Progress is what makes it notice, before the first token, that a client has left (pitfall 6).
    body |= {"return_progress": True, "tools": [rooted(tool) for tool in body.get("tools", ())]}
    effort = body.pop("reasoning_effort", None)
    arguments = {"enable_thinking": is_thinking, "reasoning_effort": EFFORTS.get(effort, effort)}
    body["chat_template_kwargs"] = {name: value for name, value in arguments.items() if value is not None}
    return {name: value for name, value in body.items() if value is not None and value != []}


def rooted(tool: Object) -> Object:
    """A schema that refers to itself as "#", which llama.cpp's own compiler refuses, refers to a copy of itself."""
    schema = tool["function"]["parameters"]
    text = msgspec.json.encode(schema)
    if b'"$ref":"#"' not in text:
        return tool
    schema = msgspec.json.decode(text.replace(b'"$ref":"#"', b'"$ref":"#/$defs/the_whole"'))
    schema["$defs"] = schema.get("$defs", {}) | {"the_whole": dict(schema)}
    return tool | {"function": tool["function"] | {"parameters": schema}}


class Answer:
    """Makes of what is read what the turn says, read by read. This one passes everything on."""

    is_over = False
    """The rest of the answer is not wanted."""

    def read(self, deltas: list[Delta], payloads: list[bytes]) -> list[Delta]:
        del payloads
        return deltas


class _Timed(Struct):
    """Token counts so far; llama.cpp sends usage only at the end."""

    timings: dict[str, float] = {}


class OneCall(Answer):
    """Ends the turn where a second call begins: llama.cpp takes `parallel_tool_calls: false`, and makes two anyway."""

    _key: str | None = None

    def read(self, deltas: list[Delta], payloads: list[bytes]) -> list[Delta]:
        kept: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, ToolCall):
                self._key = self._key or delta.key
                if delta.key != self._key:
                    self.is_over = True
                    return [*kept, Finish("tool_calls", _counted(payloads))]
            kept.append(delta)
        return kept


def _counted(payloads: list[bytes]) -> Usage | None:
    for payload in reversed(payloads):
        with suppress(msgspec.DecodeError, KeyError):  # [DONE] is no JSON
            counts = msgspec.json.decode(payload, type=_Timed).timings
            cached, told, said = (int(counts[name]) for name in ("cache_n", "prompt_n", "predicted_n"))
            return Usage(
                input_tokens=cached + told,
                input_tokens_details=InputTokensDetails(cached_tokens=cached),
                output_tokens=said,
                total_tokens=cached + told + said,
            )
    return None


# -- calls that must come


def forced(prompt: Prompt, tags_calls: bool, opening: Opening) -> Object:
    """What to change in a body so that the answer is calls, and nothing else (pitfall 3).

    llama.cpp's own `required` lets a model talk before it calls, or never call. So the tools are shown as ever, the
    answer is plain text to llama.cpp, and a grammar leaves the model no other text than calls.
    """
    chosen = [tool for tool in prompt.tools if prompt.tool_choice in ("required", Named(tool.name))]
    if not chosen:
        raise InvalidRequest("The tool_choice names no tool of this request.", param="tool_choice")
    calls_max = CALLS_MAX if prompt.parallel_tool_calls and prompt.tool_choice == "required" else 1
    grammar = call_grammar(chosen, tags_calls, opening, calls_max)
    # A grammar that does not compile is dropped by llama.cpp without a word, so that it must be tried here (pitfall 5).
    if fault := grammar_fault(grammar):
        raise _faulty_schema(prompt.tools, chosen) or InvalidRequest(fault, param="tools", code=BAD_SCHEMA)
    unset = {"parallel_tool_calls": None, "stop": None}  # a stop string inside a call's arguments would break them
    return {"tool_choice": "none", "grammar": grammar, **unset}


THOUGHTS: dict[Opening, str] = {"answer": "", "thought": "thought gap ", "either": "think? "}
COMPACT = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
"""How models write JSON; free white space is a trap in which weak ones stay."""
LENIENT = {"lenient": True, "coerce_one_of": True}
"""A schema that is not strict is a hint: what cannot be enforced of it is left out."""
BAD_SCHEMA = "invalid_function_parameters"


def call_grammar(tools: Sequence[Offer], tags_calls: bool, opening: Opening, calls_max: int) -> str:
    """Each tool has its own JSON document, so that its `$defs` and "#" mean what they say.

    The constraint begins at the first token, so a model that thinks must be given its thought (pitfall 5).
    """
    before, after = ("<tool_call>\n", "\n</tool_call>") if tags_calls else ("", "")
    more = f' ("\\n" call){{0,{calls_max - 1}}}' if calls_max > 1 else ""
    rules = [f"start: {THOUGHTS[opening]}call{more}", "call: " + " | ".join(f"call_{i}" for i in range(len(tools)))]
    for number, tool in enumerate(tools):
        head = f'{before}{{"name": {_quoted(tool.name)}, "arguments": '
        rules.append(f"call_{number}: {_quoted(head)} arguments_{number} {_quoted('}' + after)}")
        rules.append(f"arguments_{number}: %json {json.dumps(arguments_schema(tool))}")
    if opening == "either":
        rules.append('think: "<think>" thought gap')
    if opening != "answer":
        rules += ['thought[suffix="</think>"]: /(.|\\n)*/', "gap: /\\n{0,2}/"]
    return "\n".join(("%llguidance {}", *rules))


def arguments_schema(tool: Offer) -> Object:
    """The tool's parameters as an object that closes: nothing it does not name, where the schema leaves that open."""
    schema = (tool.parameters or {"properties": {}}) | {"type": "object"}
    if "properties" in schema and not schema.keys() & {"$ref", "allOf", "anyOf", "oneOf", "patternProperties"}:
        schema.setdefault("additionalProperties", False)
    return schema | {"x-guidance": COMPACT | ({} if tool.strict else LENIENT)}


def grammar_fault(grammar: str) -> str:
    """Why it does not compile; empty when it does."""
    said = str(import_module("llguidance").LLMatcher.validate_grammar(grammar))
    return said.partition("failed to compile JSON schema: ")[2].partition("\n   ")[0] or said


def _faulty_schema(tools: Sequence[Offer], suspects: Iterable[Offer]) -> InvalidRequest | None:
    for tool in suspects:
        if fault := grammar_fault(f"%llguidance {{}}\nstart: %json {json.dumps(arguments_schema(tool))}"):
            return _bad_schema(tools, tool, fault)
    return None


def _check_takes_object(tools: Sequence[Offer], tool: Offer) -> None:
    kinds = (tool.parameters or {}).get("type", "object")
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        raise _bad_schema(tools, tool, f"its type must be object, not {kinds}")


def _bad_schema(tools: Sequence[Offer], tool: Offer, fault: str) -> InvalidRequest:
    param = f"tools[{tools.index(tool)}].parameters"
    return InvalidRequest(f"Invalid schema for function '{tool.name}': {fault}", param=param, code=BAD_SCHEMA)


def _blamed(error: ApiError, tools: Sequence[Offer]) -> InvalidRequest | None:
    """The engine's trouble with a schema, as the fault of the tool it means, which llama.cpp does not say."""
    _, found, fault = error.message.partition("JSON schema error at ")
    if not found and "empty grammar stack" not in error.message:  # the latter is where an unsatisfiable one ends
        return None
    unnamed = InvalidRequest(f"Invalid schema at {fault}", param="tools", code=BAD_SCHEMA) if found else None
    return _faulty_schema(tools, tools) or unnamed


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class ForcedCalls(Answer):
    """Takes calls out of the text that the grammar made, piece by piece; thoughts and the Finish pass."""

    _HEAD = re.compile(r'\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')

    def __init__(self) -> None:
        self._held = ""
        self._count = 0
        self._arguments: _Nesting | None = None

    def read(self, deltas: list[Delta], payloads: list[bytes]) -> list[Delta]:
        del payloads
        found: list[Delta] = []
        for delta in deltas:
            match delta:
                case Text(text):
                    self._hear(text, found)
                case Finish("stop"):
                    found.append(structs.replace(delta, reason=self._reason_to_stop()))
                case _:
                    found.append(delta)
        return found

    def _hear(self, text: str, found: list[Delta]) -> None:
        while text:
            if self._arguments is None:
                text = self._seek_head(text, found)
            else:
                length = self._arguments.length_in(text)
                found.append(ToolCall(str(self._count), arguments=text[:length]))
                if self._arguments.is_closed:
                    if text[length - 1] != "}":
                        raise _uncalled()
                    self._arguments = None
                text = text[length:]

    def _seek_head(self, text: str, found: list[Delta]) -> str:
        """What follows the head of a call, if it ends in this text."""
        self._held += text
        if len(self._held) > HEAD_CHARS_MAX:
            raise _uncalled()
        if not (head := self._HEAD.search(self._held)):
            return ""
        text, self._held = self._held[head.end() :], ""
        self._count += 1
        self._arguments = _Nesting()
        found.append(ToolCall(str(self._count), name=json.loads(head[1])))
        return text

    def _reason_to_stop(self) -> Literal["tool_calls"]:
        if not self._count or self._arguments is not None:
            raise _uncalled()
        return "tool_calls"


def _uncalled() -> ModelError:
    return ModelError("The model did not make the call that tool_choice asks for.")


class _Nesting:
    """How deep a JSON document, which is an object, is open as it comes."""

    _depth = 0
    _is_in_string = _is_escaped = is_closed = False

    def length_in(self, text: str) -> int:
        """How much of the text belongs to the document."""
        for at, character in enumerate(text, 1):
            if self._is_in_string:
                self._is_in_string = self._is_escaped or character != '"'
                self._is_escaped = character == "\\" and not self._is_escaped
            else:
                self._is_in_string = character == '"'
                self._depth += (character in "{[") - (character in "}]")
                if not self._depth:
                    self.is_closed = True
                    return at
        return len(text)


# -- where the file comes from

HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<file>.+\.gguf))?", re.ASCII)
HUB_TIMEOUT_S = 10.0
QUANTS = ("Q4_K_M", "Q4_K_S", "Q4_0", "MXFP4", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0", "BF16", "F16", "F32")
"""Which of several files is taken: the first of these that is there. Q4_K_M is the usual balance of size and worth."""
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
COMPANIONS = re.compile(r"(^|/)(mmproj|imatrix)|[-_.](mmproj|imatrix)", re.IGNORECASE)
"""Files beside a model that are none."""


def prepared(settings: Settings) -> Settings:
    """The same settings, with a name, and a path that is a file here. Downloads: to be called before the loop runs."""
    path = Path(settings.path).expanduser()
    hub_id = HUB_ID.fullmatch(settings.path)
    if hub_id and not path.exists() and (hub_id["file"] or not settings.path.endswith(".gguf")):
        path = downloaded(hub_id["repo"], hub_id["file"])
    if not path.is_file():
        raise SettingsError(f"There is no model file {settings.path}.")
    name = settings.name or SHARD.sub("", path.name).removesuffix(".gguf")
    return structs.replace(settings, path=str(path), name=name)


def downloaded(repo: str, wanted: str | None) -> Path:
    """The file of a Hugging Face repository, kept where huggingface_hub keeps it: HF_ENDPOINT, HF_HOME, HF_TOKEN count.

    Without a network what is in the cache is taken, if it is whole.
    """
    hub, errors = import_module("huggingface_hub"), import_module("huggingface_hub.errors")
    try:
        listed = hub.HfApi().model_info(repo, timeout=HUB_TIMEOUT_S).siblings or ()
        shards = chosen(repo, [file.rfilename for file in listed], wanted)
        patterns = [re.sub(r"([*?[])", r"[\1]", name) for name in shards]
        return Path(hub.snapshot_download(repo, allow_patterns=patterns)) / shards[0]
    except errors.GatedRepoError as error:
        raise SettingsError(f"{repo} is gated: accept its terms on its page, and set HF_TOKEN.") from error
    except errors.RepositoryNotFoundError as error:
        raise SettingsError(f"{_at(repo)} does not exist; if it is private, set HF_TOKEN.") from error
    except (errors.HTTPError, OSError) as error:
        return cached(repo, wanted, str(error))


def cached(repo: str, wanted: str | None, reason: str) -> Path:
    """What an earlier download left. huggingface_hub itself wants all files of a snapshot, asked for or not."""
    constants = import_module("huggingface_hub.constants")
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text()
        shards = chosen(repo, [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf")], wanted)
    except (OSError, SettingsError) as error:
        raise SettingsError(f"{_at(repo)} cannot be downloaded: {reason.splitlines()[0]}") from error
    _log.warning("%s cannot be reached (%s): what was downloaded before is served.", _at(repo), reason.splitlines()[0])
    return snapshot / shards[0]


def _at(repo: str) -> str:
    return f"{repo} at {import_module('huggingface_hub.constants').ENDPOINT}"


def chosen(repo: str, files: Iterable[str], wanted: str | None) -> list[str]:
    """The file that is wanted, or the best by QUANTS, else the first by name; of a split one all shards, in order."""
    models = sorted(name for name in files if name.endswith(".gguf") and not COMPANIONS.search(name))
    named = [name for name in models if wanted in (None, name, name.rpartition("/")[2])]
    if not named:
        listed = ", ".join(models) or "none"
        raise SettingsError(f"{_at(repo)} holds no {wanted or '.gguf file'}. Its models: {listed}.")
    first = min(named, key=_rank)
    shards = [name for name in models if SHARD.sub("", name) == SHARD.sub("", first) and SHARD.search(name)] or [first]
    if (numbers := SHARD.search(first)) and len(shards) != int(numbers[2]):
        raise SettingsError(f"{_at(repo)} holds {len(shards)} of the {int(numbers[2])} parts of {first}.")
    return shards


def _rank(name: str) -> int:
    words = re.split(r"[-./]", name.upper())
    return next((rank for rank, quant in enumerate(QUANTS) if quant in words), len(QUANTS))
