"""A GGUF model on this machine, behind the port Model: its worker process, and what it is asked.

    settings --hub.prepared--> a file --Supervisor--> a running worker process
    Prompt --request--> body --Upstream--> payloads --ChunkReader--> deltas --Answer--> deltas

Knows llama.cpp's ways; refuses to know how its process is spoken to (llama_worker.py) and the chat API (chatbody.py).
Three promises are kept because llama.cpp does not keep them: a call that is required comes; documents, arguments and
inputs fit their schemas and grammars (constraint.py); and `parallel_tool_calls: false` means one call (answer.py).
Pitfalls are numbered as in docs/llama-cpp.md.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec
from msgspec import structs

from antiphon.config import Limits
from antiphon.config import LocalModel as Settings
from antiphon.core.deltas import Delta
from antiphon.core.ports import Check, Count, ModelCard, Sense
from antiphon.core.prompt import Prompt
from antiphon.errors import ApiError, InvalidRequest, ModelError, SettingsError
from antiphon.models import tiny
from antiphon.models.answer import Answer, Constrained, OneCall
from antiphon.models.chatbody import PREFILLED, Object, chat_request
from antiphon.models.constraint import Constraint, blamed, check_takes_object, constraint
from antiphon.models.counting import Counter, input_tokens_of_chat
from antiphon.models.hub import prepared
from antiphon.models.llama_worker import Supervisor, Template, Wanted, Worker, WorkerFailed
from antiphon.models.logprobs import chunk_reader
from antiphon.models.resumed import resumed
from antiphon.models.shared import SharedEngine, SharedWorker
from antiphon.models.upstream import Upstream
from antiphon.wire.items import FunctionCallOutput, InputImage, Message

TINY_ANSWER_TOKENS = 1024
"""The longest answer of the built-in model, which a request may raise: off its track it repeats itself to the end."""
DEATH_NOTICE_S = 0.5
"""A broken connection is often seen before the end of the process that held it."""
EFFORTS = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}
"""Templates that take an effort know three."""

_log = logging.getLogger("antiphon.local")


class LocalModel:
    """One model, in one worker process: its own, or one that is shared. Constructing it downloads what the settings
    name and is not yet here."""

    takes: frozenset[Sense] = frozenset()

    def __init__(self, settings: Settings, limits: Limits, shared: SharedEngine | None = None) -> None:
        self._settings = prepared(settings)
        self._is_tiny = Path(self._settings.path) == tiny.path()
        self._made_at = int(Path(self._settings.path).stat().st_mtime)
        self._limits = limits
        self._supervisor: Supervisor | SharedEngine = shared or Supervisor(
            msgspec.convert(self._settings, Wanted, from_attributes=True),
            start_timeout_s=self._settings.start_timeout_s,
        )
        self._upstream: Upstream | None = None
        self._counter: Counter | None = None
        self._context_tokens: int | None = None

    async def start(self) -> None:
        """Loads the model."""
        try:
            await self._engine()
        except ModelError as error:
            raise SettingsError(error.message) from error

    async def cards(self, *, fresh: bool = False) -> Sequence[ModelCard]:
        owner = "antiphon" if self._is_tiny else "local"
        return [ModelCard(id=self._settings.name, created=self._made_at, owned_by=owner)]

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        worker, upstream = await self._engine()
        body, answer = await self._turn(prompt, worker.ready.template)
        try:
            said = _said(upstream, body, answer, prompt)
            async with aclosing(resumed(said) if prompt.prefix else said) as batches:
                async for batch in batches:
                    yield batch
        except (InvalidRequest, ModelError) as error:
            if bad := blamed(error, prompt.tools):
                raise bad from error
            if isinstance(error, ModelError) and (how := await worker.ended_within(DEATH_NOTICE_S)):
                raise ModelError(
                    f"The worker process of the model {self._settings.name} failed while it answered ({how}). "
                    "It is started again; please retry."
                ) from error
            raise

    def prefills(self, prompt: Prompt) -> bool:
        """A grammar is of a whole answer, and cannot begin in its middle."""
        return constraint(prompt, knows_tags=True, opening="answer") is None

    async def count(self, prompt: Prompt) -> Count:
        worker, _ = await self._engine()
        body, _ = await self._turn(prompt, worker.ready.template)
        assert self._counter is not None
        return await self._counter.count(prompt, lambda: body)

    def window(self, name: str) -> int | None:
        return self._context_tokens

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

    async def _engine(self) -> tuple[Worker | SharedWorker, Upstream]:
        """The running worker, and the way to speak to it: each has its own port."""
        try:
            worker = await self._supervisor.worker()
        except WorkerFailed as failure:
            raise ModelError(f"The model {self._settings.name} cannot run: {failure}.") from failure
        if self._upstream is None or self._upstream.url != worker.ready.address:
            former, self._upstream = self._upstream, self._connected(worker)
            self._counter = Counter(self._upstream, (input_tokens_of_chat,))
            self._context_tokens = worker.ready.context_tokens
            if former is not None:
                await former.close()
        return worker, self._upstream

    async def _turn(self, prompt: Prompt, template: Template) -> tuple[Object, Answer]:
        check_shows_nothing(prompt)
        for tool in prompt.tools:
            check_takes_object(prompt.tools, tool)
        default = False if self._is_tiny else None
        is_thinking = default if prompt.effort is None else prompt.effort not in ("none", "minimal")
        wanted = constraint(prompt, template.tags_calls, template.opening(is_thinking))
        if wanted is not None:
            # In a thread: a schema is compiled in a millisecond, but a huge one takes long.
            await asyncio.to_thread(wanted.check, prompt)
        body = request(prompt, self._settings.temperature, is_thinking, wanted)
        if self._is_tiny:
            body.setdefault("max_tokens", TINY_ANSWER_TOKENS)
        if wanted is not None:
            return body, Constrained(wanted, prompt.stop)
        if prompt.tools and not prompt.parallel_tool_calls:
            return body | {"timings_per_token": True}, OneCall()
        return body, Answer()

    def _connected(self, worker: Worker | SharedWorker) -> Upstream:
        return Upstream(
            worker.ready.address,
            key=worker.key,
            connect_timeout_s=10.0,
            silence_timeout_s=self._settings.silence_timeout_s,
            attempts_max=1,
            line_bytes_max=self._limits.upstream_line_bytes_max,
            reuse_connections=False,  # 18 of 80 answers were lost to a race in its keep-alive (pitfall 12)
        )


# -- one turn


async def _said(upstream: Upstream, body: Object, answer: Answer, prompt: Prompt) -> AsyncGenerator[list[Delta], None]:
    """Closing it closes the connection, which frees the engine's slot."""
    reader = chunk_reader(prompt.top_logprobs)
    sent = msgspec.json.encode(body)
    async with aclosing(upstream.post_events("/v1/chat/completions", sent, is_live=prompt.is_live)) as reads:
        async for payloads in reads:
            if deltas := answer.read(reader.feed(payloads), payloads):
                yield deltas
            reader.check()
            if answer.is_over:
                return
    if deltas := answer.read(reader.end(), []):
        yield deltas


def request(
    prompt: Prompt, temperature: float | None, is_thinking: bool | None, wanted: Constraint | None = None
) -> Object:
    """The body for llama.cpp. Its server has more fields than others, and effort is an argument of the template."""
    if prompt.tool_choice == "none":  # llama.cpp would show them, and pass on the calls it gets as text
        prompt = structs.replace(prompt, tools=())
    body = chat_request(prompt if wanted is None else wanted.told(prompt), reasoning_field="reasoning_content")
    body.setdefault("temperature", temperature)
    # Progress is what makes it notice, before the first token, that a client has left (pitfall 6).
    body |= {"return_progress": True, "tools": [rooted(tool) for tool in body.get("tools", ())]}
    if body.pop("logprobs", False):  # by this name it gives them beside tools, too (pitfall 15)
        body["n_probs"] = body.pop("top_logprobs")
    effort = body.pop("reasoning_effort", None)
    arguments = {"enable_thinking": is_thinking, "reasoning_effort": EFFORTS.get(effort, effort)}
    body["chat_template_kwargs"] = {name: value for name, value in arguments.items() if value is not None}
    if prompt.prefix:
        body |= PREFILLED
    if wanted is not None:
        # The answer is plain text to llama.cpp, and read by us. So are stop strings, which would break what has a form:
        # an answer that ends early is counted by its timings.
        unset = dict.fromkeys(("response_format", "parallel_tool_calls", "stop"))
        body |= {"tool_choice": "none", "grammar": wanted.grammar, "timings_per_token": bool(prompt.stop), **unset}
    return {name: value for name, value in body.items() if value is not None and value != []}


def check_shows_nothing(prompt: Prompt) -> None:
    """No model is loaded with what it would need to see."""
    for item in prompt.items:
        shown = item.content if isinstance(item, Message) else ()
        if isinstance(item, FunctionCallOutput) and not isinstance(item.output, str):
            shown = item.output
        if any(isinstance(part, InputImage) for part in shown):
            raise InvalidRequest(f"The model '{prompt.model}' cannot see images.", param="input")


def rooted(tool: Object) -> Object:
    """A schema that refers to itself as "#", which llama.cpp's own compiler refuses, refers to a copy of itself."""
    schema = tool["function"]["parameters"]
    text = msgspec.json.encode(schema)
    if b'"$ref":"#"' not in text:
        return tool
    schema = msgspec.json.decode(text.replace(b'"$ref":"#"', b'"$ref":"#/$defs/the_whole"'))
    schema["$defs"] = schema.get("$defs", {}) | {"the_whole": dict(schema)}
    return tool | {"function": tool["function"] | {"parameters": schema}}
