"""The body of POST /v1/responses for a prompt, as servers of that API take it. Pure: knows nothing of answers.

Holds only what was asked for: unknown fields make strict servers refuse. What a server refuses is told to the client,
in its name, unless it can be said otherwise without loss: that is what a Spelling is for.
"""

import re
from typing import Any, TypeAlias, TypeGuard

import msgspec
from msgspec import UNSET, Struct, structs

from antiphon.core.prompt import Named, Offer, Prompt, PromptItem, VendorThought
from antiphon.errors import InvalidRequest
from antiphon.wire.formats import JsonSchemaFormat
from antiphon.wire.items import (
    FunctionCall,
    FunctionCallOutput,
    InputAudio,
    InputFile,
    InputImage,
    InputText,
    Message,
    MessagePart,
    OutputText,
    Reasoning,
)

Object: TypeAlias = dict[str, Any]


class Spelling(Struct, frozen=True, kw_only=True):
    """What servers of this API disagree about. Learnt from their refusals, one thing at a time.

    `thoughts`: vLLM and antiphon take raw thoughts back. OpenAI refuses them: there, only those that it sealed itself
    (`encrypted_content`) are told.
    `sealed`: some do not know that thoughts can be sealed; OpenAI does not for models that do not think.
    `opens`: a seal that cannot be opened, since the upstream's key changed, must not end a conversation. That is about
    one prompt, and not learnt.
    `instructions`: some know no such field; then they are the first message.
    `developer`: chat templates of many models behind vLLM know no such role; then it is "system".
    `cache_key`: some know no `prompt_cache_key`, a hint that changes no answer.
    `allowed`: where `allowed_tools` is no tool choice, only those tools are shown.
    """

    thoughts: bool = True
    sealed: bool = True
    opens: bool = True
    instructions: bool = True
    developer: bool = True
    cache_key: bool = True
    allowed: bool = True

    @property
    def is_lasting(self) -> bool:
        return self.opens

    def tells_sealed(self, thought: Reasoning, model: str) -> TypeGuard[VendorThought]:
        """Whether a thought is told as its vendor sealed it."""
        return self.sealed and self.opens and isinstance(thought, VendorThought) and thought.model == model

    def after(self, error: InvalidRequest, prompt: Prompt) -> "Spelling | None":
        said, items = error.message, prompt.items
        is_unknown = _UNKNOWN.search(said)
        thoughts = [item for item in items if isinstance(item, Reasoning)]
        sealed = [item for item in thoughts if self.tells_sealed(item, prompt.model)]
        if sealed and error.code == "invalid_encrypted_content":
            return structs.replace(self, opens=False)
        if self.sealed and (_SEALED.search(said) or (is_unknown and "include" in f"{said} {error.param}")):
            return structs.replace(self, sealed=False)
        if thoughts and _names_thoughts(said, self, prompt):
            if self.thoughts and len(sealed) < len(thoughts):
                return structs.replace(self, thoughts=False)
            if sealed:
                return structs.replace(self, opens=False)
        if self.instructions and prompt.instructions and is_unknown and "instructions" in f"{said} {error.param}":
            return structs.replace(self, instructions=False)
        if self.cache_key and prompt.cache_key is not None and "prompt_cache_key" in f"{said} {error.param}":
            return structs.replace(self, cache_key=False)
        has_developer = any(isinstance(item, Message) and item.role == "developer" for item in items)
        if self.developer and has_developer and _ROLE.search(said):
            return structs.replace(self, developer=False)
        if self.allowed and prompt.allowed is not None and "tool" in f"{said} {error.param}".lower():
            return structs.replace(self, allowed=False)
        return None


_UNKNOWN = re.compile(
    r"unsupported|unexpected|unrecognized|unknown|extra|not (supported|permitted|allowed)", re.IGNORECASE
)
_SEALED = re.compile(r"encrypted[ _]content( is)? not", re.IGNORECASE)
"""OpenAI: "Encrypted content is not supported with this model."."""
_ROLE = re.compile(r"\brole\b", re.IGNORECASE)  # "Unexpected message role.", says the template
_THOUGHTS = re.compile(
    # OpenAI: "Item with id 'rs_…' not found.", "Item 'rs_…' of type 'reasoning' was provided without …"
    r"'rs_|type '?reasoning|reasoning[ _](item|content|text)|encrypted_content|input\[\d+\]\.(content|summary)",
    re.IGNORECASE,
)
_PLACE = re.compile(r"input(?:\[|\.)(\d+)")


def _names_thoughts(said: str, spelling: Spelling, prompt: Prompt) -> bool:
    """Whether a refusal is about a thought: in words, or by its place in the input."""
    place = _PLACE.search(said)
    if place is None:
        return _THOUGHTS.search(said) is not None
    sent = _input(prompt, spelling)
    number = int(place[1])
    return number < len(sent) and sent[number]["type"] == "reasoning"


def responses_request(prompt: Prompt, spelling: Spelling) -> Object:
    sampling, has_logprobs = prompt.sampling, prompt.top_logprobs is not None
    asked = {
        "instructions": prompt.instructions if spelling.instructions else None,
        **{name: getattr(sampling, name) for name in sampling.__struct_fields__},
        "max_output_tokens": prompt.max_output_tokens,
        "stop": list(prompt.stop) or None,
        "text": _text(prompt),
        "reasoning": _present({"effort": prompt.effort, "summary": prompt.summary}),
        "include": (["reasoning.encrypted_content"] * spelling.sealed + ["message.output_text.logprobs"] * has_logprobs)
        or None,
        "top_logprobs": prompt.top_logprobs,
        "service_tier": None if prompt.service_tier in ("auto", "default") else prompt.service_tier,
        "user": prompt.user,
        "prompt_cache_key": prompt.cache_key if spelling.cache_key else None,
    }
    return {
        "model": prompt.model,
        "input": _remembered(prompt, spelling),
        "stream": True,
        "store": False,
        **_present(asked),
        **(_tools(prompt, spelling) if prompt.tools else {}),
    }


COUNTED = frozenset(
    {"model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "reasoning", "text"}
)


def count_request(prompt: Prompt, spelling: Spelling) -> Object:
    """The body of POST /v1/responses/input_tokens."""
    return {name: field for name, field in responses_request(prompt, spelling).items() if name in COUNTED}


def _present(fields: Object) -> Object:
    return {name: value for name, value in fields.items() if value is not None and value != {}}


def _text(prompt: Prompt) -> Object:
    form: Object | None = None
    if isinstance(prompt.format, JsonSchemaFormat):
        form = {"type": "json_schema", "name": prompt.format.name, "schema": prompt.format.schema}
        form |= _present({"description": prompt.format.description, "strict": prompt.format.strict})
    elif prompt.format is not None:
        form = {"type": "json_object"}
    return _present({"format": form, "verbosity": prompt.verbosity})


# -- tools


def _tools(prompt: Prompt, spelling: Spelling) -> Object:
    shown = prompt.tools
    if prompt.allowed is not None and not spelling.allowed:
        shown = tuple(offer for offer in shown if offer.name in prompt.allowed)
    fields: Object = {"tools": [_tool(offer) for offer in shown], "parallel_tool_calls": prompt.parallel_tool_calls}
    choice = prompt.tool_choice
    if isinstance(choice, Named):
        fields["tool_choice"] = {"type": "function", "name": choice.name}
    elif prompt.allowed is not None and spelling.allowed and choice != "none":
        allowed = [{"type": "function", "name": offer.name} for offer in shown if offer.name in prompt.allowed]
        fields["tool_choice"] = {"type": "allowed_tools", "mode": choice, "tools": allowed}
    else:
        fields["tool_choice"] = choice
    return fields


def _tool(offer: Offer) -> Object:
    """`strict` is always said: absent, it means false to some and "if it can be" to OpenAI."""
    return {
        "type": "function",
        "name": offer.name,
        **_present({"description": offer.description}),
        "parameters": offer.parameters or {"type": "object", "properties": {}},
        "strict": bool(offer.strict),
    }


# -- input


def _input(prompt: Prompt, spelling: Spelling) -> list[Object]:
    return [*_first(prompt, spelling), *_items(prompt, spelling, 0)]


def _remembered(prompt: Prompt, spelling: Spelling) -> msgspec.Raw:
    """The same as JSON. What is made of the items is kept for the next turn."""
    key, items = ("responses", prompt.model, spelling), prompt.items
    count, made = prompt.memo.recall(key, items)
    if count < len(items):
        made = _joined(made, _items(prompt, spelling, count))
        prompt.memo.keep(key, items, len(items), made, len(made))
    return msgspec.Raw(b"[%b]" % b",".join(filter(None, (_joined(None, _first(prompt, spelling)), made))))


def _joined(before: bytes | None, sent: list[Object]) -> bytes:
    return b",".join(filter(None, (before, msgspec.json.encode(sent)[1:-1])))


def _first(prompt: Prompt, spelling: Spelling) -> list[Object]:
    is_needed = prompt.instructions and not spelling.instructions
    return [{"type": "message", "role": "system", "content": prompt.instructions}] if is_needed else []


def _items(prompt: Prompt, spelling: Spelling, begin: int) -> list[Object]:
    """What is sent for the items from `begin` on: of each, independent of the others."""
    places = range(begin, len(prompt.items))
    return [sent for place in places for sent in _item(prompt.items[place], place, prompt.model, spelling)]


def _item(item: PromptItem, number: int, model: str, spelling: Spelling) -> list[Object]:
    match item:
        case Message():
            return [_message(item, number, spelling)]
        case Reasoning():
            if spelling.tells_sealed(item, model):  # its id is the upstream's secret, too
                summary = [{"type": "summary_text", "text": part.text} for part in item.summary]
                return [{"type": "reasoning", "summary": summary, "encrypted_content": item.encrypted_content}]
            return _reasoning(item, number) if spelling.thoughts else []
        case FunctionCall():
            arguments = item.arguments or "{}"
            return [{"type": "function_call", "call_id": item.call_id, "name": item.name, "arguments": arguments}]
        case FunctionCallOutput():
            output = item.output if isinstance(item.output, str) else _content(item.output)
            return [{"type": "function_call_output", "call_id": item.call_id, "output": output}]


def _message(item: Message, number: int, spelling: Spelling) -> Object:
    role = "system" if item.role == "developer" and not spelling.developer else item.role
    message: Object = {"type": "message", "role": role, "content": _content(item.content)}
    if item.phase is not UNSET:
        message["phase"] = item.phase
    if role == "assistant" and isinstance(message["content"], list):
        # vLLM takes an assistant's parts only in a message that is as it came out, with its id and status
        message |= {"id": item.id or f"msg_{number}", "status": "completed"}
    return message


def _reasoning(item: Reasoning, number: int) -> list[Object]:
    """vLLM wants the id, and one part of content. A summary stands in for thoughts that are not there."""
    text = "\n".join(part.text for part in item.content or item.summary)
    if not text:
        return []
    thought = {"type": "reasoning_text", "text": text}
    return [{"type": "reasoning", "id": item.id or f"rs_{number}", "summary": [], "content": [thought]}]


def _content(parts: tuple[MessagePart, ...]) -> str | list[Object]:
    """One text is a string, which all servers take."""
    if len(parts) == 1 and isinstance(parts[0], InputText | OutputText):
        return parts[0].text
    return [_part(part) for part in parts]


def _part(part: MessagePart) -> Object:
    match part:
        case InputText():
            return {"type": "input_text", "text": part.text}
        case InputImage():
            return {"type": "input_image", "image_url": part.image_url, "detail": part.detail}
        case InputFile():
            detail = {} if part.detail is UNSET else {"detail": part.detail}
            return {"type": "input_file", "filename": part.filename, "file_data": part.file_data, **detail}
        case InputAudio():
            return {"type": "input_audio", "input_audio": structs.asdict(part.input_audio)}
        case OutputText():
            return {"type": "output_text", "text": part.text, "annotations": []}
        case _:
            return {"type": "refusal", "refusal": part.refusal}
