"""Items, the things in a conversation, and the parts they are made of. Knows nothing of how they come about.

Every item that is stored or sent out has an `id`; an item that comes in may lack one (UNSET) until it is planned.
UNSET means absent on the wire and is never sent as null (Open Responses rejects nulls where a key may be absent).
Source: openai 3.54.0 types/responses, `ResponseInputItem`, `ResponseOutputItem`, `ResponseItem`.
"""

from typing import Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]
Role: TypeAlias = Literal["user", "assistant", "system", "developer"]
Later: TypeAlias = UnsetType | None
"""A field of the reference that this server does not serve yet: absent or null, else the codec refuses it by name."""


class Part(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A piece of an item's content."""


class InputText(Part, frozen=True, kw_only=True, tag="input_text"):
    text: str
    prompt_cache_breakpoint: Later = UNSET


class UrlCitation(Part, frozen=True, kw_only=True, tag="url_citation"):
    end_index: int
    start_index: int
    title: str
    url: str


class FileCitation(Part, frozen=True, kw_only=True, tag="file_citation"):
    file_id: str
    filename: str
    index: int


class ContainerFileCitation(Part, frozen=True, kw_only=True, tag="container_file_citation"):
    container_id: str
    end_index: int
    file_id: str
    filename: str
    start_index: int


class FilePath(Part, frozen=True, kw_only=True, tag="file_path"):
    file_id: str
    index: int


Annotation: TypeAlias = UrlCitation | FileCitation | ContainerFileCitation | FilePath


class TopLogprob(Struct, frozen=True, kw_only=True):
    token: str
    bytes: tuple[int, ...] = ()
    logprob: float


class Logprob(Struct, frozen=True, kw_only=True):
    token: str
    bytes: tuple[int, ...] = ()
    logprob: float
    top_logprobs: tuple[TopLogprob, ...] = ()


class OutputText(Part, frozen=True, kw_only=True, tag="output_text"):
    annotations: tuple[Annotation, ...] = ()
    logprobs: tuple[Logprob, ...] = ()
    text: str


class Refusal(Part, frozen=True, kw_only=True, tag="refusal"):
    refusal: str


class ReasoningText(Part, frozen=True, kw_only=True, tag="reasoning_text"):
    text: str


class SummaryText(Part, frozen=True, kw_only=True, tag="summary_text"):
    text: str


MessagePart: TypeAlias = InputText | OutputText | Refusal


class ItemBase(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A thing in the conversation."""

    id: str | UnsetType = UNSET


class Message(ItemBase, frozen=True, kw_only=True, tag="message"):
    """What somebody said. A string content comes in as one text part (the codec stamps it)."""

    status: ItemStatus | UnsetType = UNSET
    content: tuple[MessagePart, ...]
    role: Role
    phase: Literal["commentary", "final_answer"] | UnsetType = UNSET


class Reasoning(ItemBase, frozen=True, kw_only=True, tag="reasoning"):
    """What a model thought: `content` is raw thought, `summary` what clients are shown instead."""

    status: ItemStatus | UnsetType = UNSET
    summary: tuple[SummaryText, ...]
    content: tuple[ReasoningText, ...] | UnsetType = UNSET
    encrypted_content: Later = UNSET


class FunctionCall(ItemBase, frozen=True, kw_only=True, tag="function_call", rename={"async_": "async"}):
    """A call that the client runs. `arguments` is a JSON document in a string, as the model wrote it."""

    status: ItemStatus | UnsetType = UNSET
    arguments: str
    call_id: str
    name: str
    namespace: Later = UNSET
    caller: Later = UNSET
    async_: Literal[False] | UnsetType | None = UNSET
    created_by: str | UnsetType = UNSET


class FunctionCallOutput(ItemBase, frozen=True, kw_only=True, tag="function_call_output"):
    """What the client's function gave."""

    status: ItemStatus | UnsetType = UNSET
    call_id: str
    output: str | tuple[InputText, ...]
    name: str | UnsetType = UNSET
    namespace: Later = UNSET
    caller: Later = UNSET
    created_by: str | UnsetType = UNSET


class ItemReference(ItemBase, frozen=True, kw_only=True, tag="item_reference"):
    """Stands for an item stored earlier in the same project."""

    id: str


class ScriptedCall(ItemBase, frozen=True, kw_only=True, tag="antiphon:scripted_call"):
    """A call of the scripted hosted tool, which this server ships for tests and client developers.

    The prefix is the Open Responses rule for item types that are a provider's own.
    """

    status: Literal["in_progress", "searching", "completed", "incomplete", "failed"] | UnsetType = UNSET
    name: str
    arguments: str
    output: str | None = None


HostedCall: TypeAlias = ScriptedCall
"""Items that record a call which this server ran itself."""

OutputItem: TypeAlias = Message | Reasoning | FunctionCall | ScriptedCall
Item: TypeAlias = Message | Reasoning | FunctionCall | FunctionCallOutput | ScriptedCall
"""What is stored and listed."""
InputItem: TypeAlias = Item | ItemReference

ID_PREFIXES: dict[type[Item], str] = {
    Message: "msg",
    Reasoning: "rs",
    FunctionCall: "fc",
    FunctionCallOutput: "fco",
    ScriptedCall: "sc",
}
