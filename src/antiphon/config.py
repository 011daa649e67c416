"""Config: the settings as one frozen tree. Knows their shape; refuses to know where they come from (origins.py), and
what any of them does. Units stand last in names. `[limits]` collects every bound, each with its reason.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

Positive: TypeAlias = Annotated[int, Meta(ge=1)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0)]
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Role: TypeAlias = Literal["all", "api", "worker"]
HttpUrl: TypeAlias = Annotated[str, Meta(pattern=r"^https?://[^/\s]+")]


POSTGRES = ("postgresql://", "postgres://")
"""How the address of a PostgreSQL database begins."""


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the settings file."""


class Server(Section, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """Where it listens. Without keys it wants a loopback address."""
    open_without_keys: bool = False
    """Serve on a non-loopback address although no key is configured."""
    strict: bool = False
    """Refuse unknown parameters instead of naming them in a header."""
    secret: str = ""
    """What API keys are hashed and sealed contents encrypted with: 32 bytes in base64, from `openssl rand -base64 32`.
    Empty: the file beside the SQLite database. With PostgreSQL it must be given, the same to every server: kept in the
    database, it would be stolen with what it protects."""
    secret_env: str = ""
    """Name of the environment variable that holds the secret; better than `secret` in the file."""
    workers: Positive = 1
    """Processes that serve, on one socket and one store. More than one: a small process beside them starts them again,
    and runs the embedded models that they share. `[limits]` hold for each."""
    role: Role = "all"
    """api: answers requests, and leaves background responses to others. worker: makes those, and answers /health and
    /ready alone."""
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """auto: for people on a terminal, JSON elsewhere."""


class Storage(Section, frozen=True, kw_only=True):
    database: str = ""
    """Path of the SQLite file; empty: `antiphon.db` in the user's data directory. ":memory:" keeps nothing. Or
    "postgresql://user@host/name", for several servers; its password is better in PGPASSWORD or in ~/.pgpass."""
    synchronous: Literal["normal", "full"] = "normal"
    """normal: a power cut may lose the last moments, never corrupt; full: nothing, at one fsync a commit. PostgreSQL
    has a setting of its own for that, which is full by default."""
    files: str = ""
    """For their bytes; empty: beside the SQLite file ("antiphon.db.files"), or in memory with it. With PostgreSQL it
    must be given: a directory that all servers share."""

    @property
    def is_postgres(self) -> bool:
        return self.database.startswith(POSTGRES)


class StaticKey(Section, frozen=True, kw_only=True):
    project: str = "default"
    """What it opens: responses, conversations and files of one project."""
    key: str = ""
    key_env: str = ""
    """Name of the environment variable that holds the key; better than `key` in the file."""


class Auth(Section, frozen=True, kw_only=True):
    required: bool = False
    """Ask for a key even while none exists (then nobody gets in)."""
    keys: tuple[StaticKey, ...] = ()
    manage_over_http: bool = True
    """Whoever has a key may make and revoke keys of the same project (/antiphon/keys), as the console does."""


class SealingKey(Section, frozen=True, kw_only=True):
    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z")]
    """Stands readably in all that is sealed with the key."""
    key: str = ""
    key_env: str = ""
    """At least 32 characters, random: `openssl rand -base64 32`."""


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
    tool_timeout_s: Seconds = 120.0
    """One call of a hosted tool."""
    tool_output_chars_max: Positive = 400_000
    """What a model is told of one such call; the rest is left out, and it is told so. 100,000 tokens: most windows."""
    response_timeout_s: Annotated[float, Meta(ge=0)] = 14_400.0
    """One response with all its turns and tools, then it fails: something hangs, or goes round in circles. After a
    crash whoever takes it over begins to count anew. 0: no limit."""
    history_items_max: Positive = 20_000
    """Items in one prompt, history included."""
    context_cache_bytes_max: Annotated[int, Meta(ge=0)] = 32 * 1024 * 1024
    """Memory for the contexts of the latest turns: a next turn that is not among them reads its history. 0: none."""
    tools_max: Positive = 512
    """What one request may offer, tools of MCP servers included."""
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
    background_runs_max: Positive = 200
    background_runs_per_project_max: Positive = 100
    """Background responses being made at once: by this process, and for one project by all that share the store."""
    background_queue_max: Annotated[int, Meta(ge=0)] = 1_000
    background_queue_per_project_max: Annotated[int, Meta(ge=0)] = 500
    """Background responses that wait for their turn, in all and for one project; beyond it 429."""
    background_lease_s: Seconds = 10.0
    """How long after the last sign of life of the process that makes it another takes a background response over."""
    background_attempts_max: Positive = 25
    """Then it fails: perhaps it is what ends the processes that make it."""
    page_chars_max: Positive = 8 * 1024 * 1024
    """Text in one page of a list of responses, which ends early rather than grow beyond it: a hundred large ones are
    gigabytes."""
    store_queue_max: Positive = 10_000
    """Saves waiting for the writer."""
    store_connections_max: Annotated[int, Meta(ge=3)] = 8
    """To PostgreSQL, from each server process, beside one that listens. Two write, in groups; the others read. All
    servers together must stay below its max_connections (100 by default)."""
    file_bytes_max: Positive = 512 * 1024 * 1024
    upload_bytes_max: Positive = 8 * 1024 * 1024 * 1024
    upload_part_bytes_max: Positive = 64 * 1024 * 1024
    """A file sent in one request, one sent in parts, and such a part: as the reference has them."""
    upload_parts_max: Positive = 10_000
    """Of one upload."""
    files_per_project_max: Positive = 100_000
    file_bytes_per_project_max: Positive = 50 * 1024 * 1024 * 1024
    file_writes_max: Positive = 64
    file_silence_timeout_s: Seconds = 60.0
    """Pending uploads count, so that no project fills the disk. What is being received does not: hence the last two."""
    fetches_max: Positive = 32
    """Fetched at once, each held in memory whole; more wait for their turn."""
    image_bytes_max: Positive = 20 * 1024 * 1024
    """One picture of a request, decoded; wherever it comes from."""
    input_bytes_max: Positive = 256 * 1024 * 1024
    """Pictures and files that one request has fetched or read, those of its history included: all are in memory."""
    copies_max: Positive = 10_000
    """Pictures and texts that were fetched or extracted, kept for later turns; the oldest go first."""
    copy_bytes_max: Positive = 1024 * 1024 * 1024
    """Of them all."""


class Retention(Section, frozen=True, kw_only=True):
    """What is deleted by itself, and when. Conversations stay until they are deleted, files until they expire."""

    responses_days: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """After it was created, a response is deleted as by DELETE. 0: never, for nobody expects a server of their own to
    lose what it was given; the original deletes them after 30 days."""
    background_events_hours: Annotated[int, Meta(ge=0, le=1_000_000)] = 24
    """After it ended, a background response can be streamed no longer, only retrieved. A day, as an Idempotency-Key is
    kept, whose request may come again for its stream. 0: as long as the response is there."""


class Fetch(Section, frozen=True, kw_only=True):
    """How addresses that stand in requests are fetched. docs/security.md says what is refused."""

    enabled: bool = True
    """false: a request that names an address is refused."""
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
    """Name of the environment variable that holds the key; better than `key` in the file."""
    models: tuple[str, ...] = ()
    """Serve only these; empty: all that the upstream lists."""
    efforts: tuple[Effort, ...] = ()
    """The values of reasoning.effort that it knows: of others it is told the nearest. Empty: each as it was asked."""
    connect_timeout_s: Seconds = 10.0
    """The look-up of its name and TLS included."""
    silence_timeout_s: Seconds = 600.0
    """No byte for this long ends the call. There is no limit on the whole."""
    context_tokens: Annotated[int, Meta(ge=0)] = 0
    """How many tokens, told and said, its models can hold. 0: what the upstream says, if it does."""
    attempts_max: Positive = 3
    """Tries before the first token, for failures that another try may mend."""
    images: bool = True
    """Its models can see. Where some can and others cannot, give it twice, with `models`."""
    files: bool = False
    """Its models take documents as they are. Others are told their text."""
    audio: bool = False
    """Its models can hear."""


class ChatUpstream(HttpUpstream, frozen=True, kw_only=True, tag_field="kind", tag="chat"):
    """Any server of POST /v1/chat/completions."""

    reasoning_field: Literal["reasoning_content", "reasoning"] | None = "reasoning_content"
    """Under which name thoughts of earlier turns are sent back; "null": not at all. Both names are read."""
    prefill: Literal["none", "trailing", "continue_final_message"] = "none"
    """How it is told to write on a message that was interrupted (docs/background.md): by that alone being the last one,
    or by a parameter. A server that does not know the way begins a new answer in the middle of the old one."""


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
    """The name it is served under."""
    context_tokens: Annotated[int, Meta(ge=0)] = 0
    """A token is a word. 0: no limit."""


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
    """`prompt.id` in requests."""
    version: str = "1"
    """A request that names none gets the last one of its id in the file."""
    model: str = ""
    instructions: str = ""
    messages: tuple[TemplateMessage, ...] = ()


class ScriptedToolSettings(Section, frozen=True, kw_only=True):
    """A hosted tool that does as it is told, for tests of clients."""

    enabled: bool = False


class McpServer(Section, frozen=True, kw_only=True):
    """An MCP server that requests use by its label: at a `url`, or a `command` that speaks MCP on stdin and stdout."""

    label: Annotated[str, Meta(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,63}\Z")]
    """`server_label` in requests."""
    url: str = ""
    """Not held against `[fetch]`: whoever writes the settings may."""
    transport: Literal["http", "sse"] = "http"
    """Of a `url`: streamable HTTP (with SSE where a server refuses that), or the older SSE at once."""
    command: tuple[str, ...] = ()
    """With its arguments. It is started anew for each project."""
    env: tuple[str, ...] = ()
    """Names of this server's environment variables that the command may see, beside PATH, HOME and the like."""
    key: str = ""
    """Sent as a bearer token."""
    key_env: str = ""


class McpSettings(Section, frozen=True, kw_only=True):
    """MCP servers as tools. docs/tools-mcp.md says how they are used."""

    enabled: bool = True
    """false: requests that name one are refused."""
    addresses: bool = True
    """Requests may name servers by their address, as far as `[fetch]` lets it be reached."""
    servers: tuple[McpServer, ...] = ()
    connections_max: Positive = 64
    """Open at once: one for each project, server and login."""
    idle_s: Seconds = 300.0
    """How long a connection that nobody uses stays open."""
    connect_timeout_s: Seconds = 20.0
    """For a connection and its handshake; of a command, its start."""
    listing_s: Seconds = 300.0
    """How long a list of tools is good, unless its server says so."""
    answer_bytes_max: Positive = 4 * 1024 * 1024
    """One answer, or one event, of a server at a `url`: larger, and the call fails. `limits.tool_output_chars_max` says
    how much of a call's output a model is told."""


class WebSearch(Section, frozen=True, kw_only=True):
    """Web search. docs/tools-web-search.md says how each back end is set up."""

    backend: Literal["", "searxng", "brave", "tavily", "local"] = ""
    """Empty: there is no web search."""
    url: str = ""
    """Of SearXNG. Of the others: their own address, unless one stands here. Of a local index: what its files' addresses
    begin with; empty: their names are their addresses."""
    key: str = ""
    key_env: str = ""
    """Name of the environment variable that holds the key; better than `key` in the file."""
    folder: str = ""
    """Of a local index: its HTML, Markdown and text files are what is found."""
    results_max: Annotated[int, Meta(ge=1, le=20)] = 10
    """Of one query."""
    timeout_s: Seconds = 15.0
    """For one query."""
    page_bytes_max: Positive = 5 * 1024 * 1024
    """One page as it comes."""
    page_timeout_s: Seconds = 10.0
    """For getting the text out of a page, in a process of its own."""
    page_chars_max: Positive = 2_000_000
    """Text of one page."""
    cache_s: Annotated[float, Meta(ge=0)] = 900.0
    """How long the text of a page is good."""
    cache_bytes_max: Annotated[int, Meta(ge=0)] = 32 * 1024 * 1024
    """Texts of pages that were opened, kept in memory for other parts and for finding in them."""


class Tools(Section, frozen=True, kw_only=True):
    scripted: ScriptedToolSettings = ScriptedToolSettings()
    plugins: dict[str, dict[str, Any]] = {}
    """Tools of other packages, by the names of their entry points. Each is on that has a table here, which is its own,
    and may be empty. docs/plug-ins.md shows how one is written."""
    mcp: McpSettings = McpSettings()
    web_search: WebSearch = WebSearch()


class Console(Section, frozen=True, kw_only=True):
    """The web page at `/`. It asks the API with the visitor's own key; the files that it is made of need none."""

    enabled: bool = True


class Settings(Section, frozen=True, kw_only=True):
    server: Server = Server()
    console: Console = Console()
    storage: Storage = Storage()
    auth: Auth = Auth()
    sealing: Sealing = Sealing()
    cors: Cors = Cors()
    limits: Limits = Limits()
    retention: Retention = Retention()
    fetch: Fetch = Fetch()
    models: tuple[ModelSettings, ...] = ()
    """Empty: the built-in demonstration model."""
    tools: Tools = Tools()
    documents: Documents = Documents()
    prompts: tuple[PromptTemplate, ...] = ()
