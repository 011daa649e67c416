"""Ports: what the engine asks of the world. Each is a Protocol of few verbs; adapters live in models, tools, stores."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from typing import Final, Literal, Protocol, TypeAlias

from msgspec import Struct

from antiphon.core.deltas import Delta
from antiphon.core.prompt import Prompt
from antiphon.core.requests import Requests
from antiphon.core.retention import Retention
from antiphon.core.rollups import Rollups
from antiphon.core.runs import Runs
from antiphon.wire.conversation import Conversation, ConversationList
from antiphon.wire.files import FileObject, FilePurpose, Upload, UploadPart
from antiphon.wire.items import Item
from antiphon.wire.response import Response, ResponseStatus


class ModelCard(Struct, frozen=True, kw_only=True):
    """One line of GET /v1/models. `created` is in Unix seconds."""

    id: str
    created: int
    object: Literal["model"] = "model"
    owned_by: str


class Count(Struct, frozen=True):
    """How many tokens a model is told, or about how many."""

    tokens: int
    is_exact: bool


class Check(Struct, frozen=True, kw_only=True):
    """What `antiphon doctor` says of one configured thing; `remedy` says what to do when it is not ok."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


Sense: TypeAlias = Literal["image", "audio", "file", "document"]
"""What may be told beside what is said: a file as it is, or, as a document, its text."""


class Model(Protocol):
    """A source of answers, which may serve several models by name.

    Raises ModelError (or ContextLengthExceeded, ModelOverloaded, InvalidRequest for what the vendor refuses).
    """

    takes: frozenset[Sense]
    """What it can be told beside text. A file that it does not take is told as text."""

    async def cards(self, *, fresh: bool = False) -> Sequence[ModelCard]:
        """The models it serves now; raises ModelError when it cannot tell. An adapter may remember them for a while:
        `fresh` asks for a list of this moment, or nearly."""
        ...

    def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        """One turn, as an async generator: batches of deltas, one per network read, the last ending with a Finish.

        Closing the generator (or cancelling the task that reads it) stops the vendor's work.
        """
        ...

    def prefills(self, prompt: Prompt) -> bool:
        """Whether it can go on from `prompt.prefix` as from what it said itself. `stream` then says what comes behind
        it, and nothing of it again. Asked only of prompts that may be resumed, before there is a prefix."""
        ...

    async def count(self, prompt: Prompt) -> Count:
        """How many tokens the prompt is to its model. Estimated where nobody can tell: it raises only what `stream`
        would raise before it asks anybody."""
        ...

    def window(self, name: str) -> int | None:
        """How many tokens, told and said, that model can hold. None: not known (yet)."""
        ...

    async def start(self) -> None:
        """Called once, before the first request. Raises SettingsError when it can never work so."""
        ...

    async def check(self) -> Check: ...

    async def close(self) -> None: ...


TextCheck: TypeAlias = Callable[[str], str]
"""Why a text does not fit; empty when it does."""


class Documents(Protocol):
    """Reads the text out of documents that come with a request."""

    async def text(self, data: bytes, *, filename: str, media_type: str, param: str) -> str:
        """What kind it is, its bytes say; the name and the type (either may be empty) may not contradict them. Pages,
        sheets and slides have headings with their number. Raises InvalidRequest, naming `param`, for what cannot be
        read or is larger than a bound, and TooManyRequests."""
        ...


Order: TypeAlias = Literal["asc", "desc"]


class Page(Struct, frozen=True, kw_only=True):
    items: tuple[Item, ...]
    has_more: bool


class ResponseQuery(Struct, frozen=True, kw_only=True):
    """Which stored responses, and which page of them. What is None is not asked for; times are in Unix seconds."""

    metadata: tuple[tuple[str, str], ...] = ()
    """Keys and values, all of which must match."""
    model: str | None = None
    status: ResponseStatus | None = None
    previous_response_id: str | None = None
    """The response that they go on from directly. It may be deleted; one that nothing goes on from may be unknown."""
    created_after: int | None = None
    """Inclusive, while `created_before` is not: so periods that follow each other share no response and miss none."""
    created_before: int | None = None
    limit: int
    order: Order
    """By time of creation; of one second, by when they were saved."""
    after: str | None = None
    """The id of a response, whether it matches or not: the page begins behind its place."""


class ResponsePage(Struct, frozen=True, kw_only=True):
    responses: tuple[Response, ...]
    has_more: bool


class ApiKey(Struct, frozen=True, kw_only=True):
    """A key as it is stored: its secret only as a keyed hash. `created_at` is in Unix seconds."""

    id: str
    project: str
    name: str
    hint: str
    digest: bytes
    created_at: int


class Fetched(Struct, frozen=True, kw_only=True):
    """What an address gave. `url` is where redirects led; `media_type` is in lower case, without parameters."""

    url: str
    media_type: str
    body: bytes


class FetchCodes(Struct, frozen=True, kw_only=True):
    """The error's `code` for each way in which a fetch fails."""

    address: str = "invalid_value"
    """It is none, or may not be reached."""
    download: str = "invalid_value"
    size: str = "invalid_value"
    media_type: str = "invalid_value"


FILE_CODES = FetchCodes()
IMAGE_CODES = FetchCodes(
    address="invalid_image_url",
    download="failed_to_download_image",
    size="image_file_too_large",
    media_type="unsupported_image_media_type",
)


class Fetch(Protocol):
    """Gets what an address of a request leads to, as far as the settings let it."""

    async def get(
        self, url: str, *, param: str, bytes_max: int, accept: Sequence[str], codes: FetchCodes = FILE_CODES
    ) -> Fetched:
        """`accept`: types, or beginnings that end in "/". Raises InvalidRequest naming `param`, with one of `codes`."""
        ...


class Lock(Struct, frozen=True, kw_only=True):
    """A response that is being made in a conversation, which nothing else may change meanwhile."""

    project: str
    conversation_id: str
    response_id: str


FOR_EVER: Final = 2**53
"""Until when, in Unix seconds, a background response locks its conversation: somebody will end it."""
JOINING: Final = frozenset({"completed", "incomplete"})
"""Responses that ended so stand in their conversation. Of the others nothing does: trying again doubles nothing."""


class Conversations(Protocol):
    """Remembers conversations and their items, each item under an id that is its own within its conversation.

    All raise ConversationNotFound for one that is unknown or deleted, unless they say otherwise. Times: Unix seconds.
    """

    async def add(self, project: str, conversation: Conversation, items: Sequence[Item]) -> None: ...

    async def page(self, project: str, *, limit: int, order: Order, after: str | None) -> ConversationList: ...

    async def find(self, project: str, conversation_id: str) -> Conversation: ...

    async def update(self, project: str, conversation_id: str, metadata: dict[str, str]) -> Conversation:
        """Replaces the metadata, also while it is locked."""
        ...

    async def delete(self, project: str, conversation_id: str) -> None:
        """With its items, also while it is locked. Responses keep theirs."""
        ...

    async def items(self, project: str, conversation_id: str, *, limit: int, order: Order, after: str | None) -> Page:
        """An unknown `after` raises NotFound."""
        ...

    async def item(self, project: str, conversation_id: str, item_id: str) -> Item:
        """Raises NotFound for an unknown one."""
        ...

    async def add_items(
        self, project: str, conversation_id: str, items: Sequence[Item], spare_ids: Sequence[str], *, now: int
    ) -> tuple[Item, ...]:
        """As they were added: one whose id is taken gets its spare one. Raises ConversationLocked; InvalidRequest when
        it would hold more than `limits.history_items_max`."""
        ...

    async def delete_item(self, project: str, conversation_id: str, item_id: str, *, now: int) -> Conversation:
        """Raises ConversationLocked; NotFound for an unknown item."""
        ...

    async def version(self, project: str, conversation_id: str) -> int:
        """Another one after every change of its items, never one that it had before."""
        ...

    async def context(self, project: str, conversation_id: str) -> tuple[int, tuple[Item, ...]]:
        """Its version and all its items, oldest first."""
        ...

    async def lock(self, lock: Lock, *, version: int, now: int, until: int) -> None:
        """Raises ConversationLocked where another one holds it, and where it is no longer of this version."""
        ...

    async def renew(self, locks: Sequence[Lock], *, until: int) -> None:
        """Those that are still held; says nothing of others."""
        ...

    async def release(self, lock: Lock) -> None:
        """Nothing happens when it is not held. `Store.save` releases by itself."""
        ...


class FileQuery(Struct, frozen=True, kw_only=True):
    """Which page of which files; ordered like responses."""

    purpose: FilePurpose | None = None
    limit: int
    order: Order
    after: str | None = None


class FilePage(Struct, frozen=True, kw_only=True):
    files: tuple[FileObject, ...]
    has_more: bool


class StoredUpload(Struct, frozen=True, kw_only=True):
    upload: Upload
    expires_after_s: int | None
    """Of the file that it becomes, after it has."""


class Quota(Struct, frozen=True, kw_only=True):
    """What a project may keep: files and pending uploads, their bytes, and the parts of one upload."""

    files_max: int
    bytes_max: int
    parts_max: int


Obstacle: TypeAlias = Literal["files", "bytes", "parts", "ended"]
"""Why something was not taken: which bound of the quota it would exceed, or that the upload is no longer pending."""


class CopyBounds(Struct, frozen=True, kw_only=True):
    """How many copies of what was brought from elsewhere are kept, and their bytes."""

    copies_max: int
    bytes_max: int


class FileStore(Protocol):
    """What is known of files, uploads and copies; their bytes are blobs, under the ids of files and parts and keys.

    No blob is ever lost sight of: it is *loose*, that is due to be deleted at some time, until a file, a part or a copy
    takes it, and again once that is gone. Times are in Unix seconds; what has expired by `now` does not exist.
    """

    async def reserve(self, key: str, due_at: int) -> None:
        """Notes a blob that is about to be written: it is loose from now on."""
        ...

    async def release(self, key: str) -> bool:
        """Whether the blob is still loose: nothing has taken it, and nothing will."""
        ...

    async def add(self, project: str, file: FileObject, quota: Quota) -> Obstacle | None:
        """Takes the loose blob of the file's id; raises StorageError when it is no longer there."""
        ...

    async def file(self, project: str, file_id: str, now: int) -> FileObject | None: ...

    async def page(self, project: str, query: FileQuery, now: int) -> FilePage:
        """An unknown `query.after` raises NotFound."""
        ...

    async def delete(self, project: str, file_id: str, now: int) -> bool:
        """False when there is none. Its blob is loose then."""
        ...

    async def add_upload(self, project: str, stored: StoredUpload, quota: Quota) -> Obstacle | None: ...

    async def upload(self, project: str, upload_id: str, now: int) -> StoredUpload | None: ...

    async def add_part(self, project: str, part: UploadPart, size_bytes: int, quota: Quota) -> Obstacle | None:
        """Takes the loose blob of the part's id, as `add` does."""
        ...

    async def parts(self, project: str, upload_id: str) -> Mapping[str, int]:
        """The parts by id, with their sizes in bytes."""
        ...

    async def complete(self, project: str, upload_id: str, file: FileObject) -> Obstacle | None:
        """Ends a pending upload as completed and adds the file that it became. Its parts' blobs are loose then."""
        ...

    async def cancel(self, project: str, upload_id: str, now: int) -> Obstacle | None:
        """Ends a pending upload as cancelled. Its parts' blobs are loose then."""
        ...

    async def copy(self, digest: str) -> str | None:
        """The blob of what was brought from the source of this digest, which names project, kind and source."""
        ...

    async def keep_copy(self, digest: str, key: str, size_bytes: int, bounds: CopyBounds, now: int) -> None:
        """Takes the loose blob. The one that it replaces, and the oldest beyond the bounds, are loose then."""
        ...

    async def expire(self, now: int, limit: int) -> int:
        """Drops files and uploads that have expired, at most so many; gives how many. Their blobs are loose then."""
        ...

    async def loose(self, now: int, limit: int) -> Sequence[str]:
        """Blobs that are due to be deleted."""
        ...

    async def forget(self, keys: Sequence[str]) -> None:
        """These loose blobs have been deleted."""
        ...


class Blobs(Protocol):
    """Bytes under keys that the server makes: ASCII letters, digits, "-" and "_". Raises StorageError when the medium
    fails."""

    async def write(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Keeps what comes under the key, and gives its size in bytes. It is there whole or not at all: whatever ends
        this early, an error of `chunks` or a cancellation, leaves nothing."""
        ...

    def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `stop`, in pieces. Raises NotFound, before any, when there is no such blob. One
        that is deleted meanwhile may be read to its end."""
        ...

    async def delete(self, key: str) -> None:
        """Nothing happens when there is none."""
        ...

    async def check(self) -> Check: ...

    async def close(self) -> None: ...


class Store(Protocol):
    """Remembers responses, their items, conversations and keys. Every method takes the project: another's
    rows do not exist.

    Raises StorageError when the medium fails; nothing of a failed save is kept.
    """

    @property
    def files(self) -> FileStore: ...

    async def save(self, project: str, response: Response, given: Sequence[Item], history: Sequence[Item]) -> None:
        """Writes a finished response with its new items: `given` (its own input) and `response.output`, in one
        transaction. `history` is what came before it through previous_response_id; it is written only when that
        parent was erased while this response ran. Cancelled, it is written whole or not at all.

        One that was made in a conversation releases its lock; completed or incomplete, its new items are added there in
        the same transaction, unless the conversation was deleted meanwhile. Raises StorageError where its lock ended
        and somebody else changed the conversation. With `response.store` false that is all that is written."""
        ...

    async def response(self, project: str, response_id: str) -> Response | None:
        """None when unknown or deleted."""
        ...

    async def has(self, project: str, response_id: str) -> bool:
        """Whether `response` would find it. Cheap to call on every request."""
        ...

    async def delete(self, project: str, response_id: str) -> bool:
        """False when unknown or already deleted. The items stay while a descendant lives, and go with the last."""
        ...

    async def responses(self, project: str, query: ResponseQuery) -> ResponsePage:
        """A page of those that match. It ends before `query.limit` where the next one would make it larger than
        `limits.page_chars_max`, though never with none. An unknown or deleted `query.after` raises NotFound."""
        ...

    async def context(self, project: str, response_id: str) -> tuple[Item, ...] | None:
        """Input and output of the response and all its ancestors, oldest first; None when unknown or deleted."""
        ...

    async def input_items(
        self, project: str, response_id: str, *, limit: int, order: Order, after: str | None
    ) -> Page | None:
        """The items the response was built from: its ancestors' items, then its own input. None when unknown or
        deleted; an unknown `after` raises NotFound."""
        ...

    async def items(self, project: str, ids: Sequence[str]) -> dict[str, Item]:
        """Stored items by id, those that exist, of responses and of conversations."""
        ...

    @property
    def conversations(self) -> Conversations: ...

    @property
    def runs(self) -> Runs: ...

    @property
    def requests(self) -> Requests: ...

    @property
    def retention(self) -> Retention: ...

    @property
    def rollups(self) -> Rollups: ...

    async def keys(self) -> Sequence[ApiKey]:
        """All keys of all projects: the same object until a key changes. Cheap to call on every request."""
        ...

    async def add_key(self, key: ApiKey) -> None: ...

    async def revoke_key(self, key_id: str) -> bool: ...

    async def check(self) -> Check: ...

    async def close(self) -> None: ...
