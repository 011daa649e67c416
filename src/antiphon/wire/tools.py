"""Tools as clients declare them, and the choice among them. Knows nothing of running them.

Source: openai 3.54.0 types/responses/tool.py, tool_choice_*.py.
"""

import re
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType, structs

NAME_PATTERN = r"[a-zA-Z0-9_-]{1,128}"

Later: TypeAlias = UnsetType | None
"""A field of the reference that this server does not serve yet: absent or null, else the codec refuses it by name."""
JsonObject: TypeAlias = dict[str, Any]
"""A JSON Schema, or another object that is kept as it came."""
Caller: TypeAlias = Literal["direct", "programmatic"]


class ToolBase(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A tool that a request offers to the model."""


class FunctionTool(ToolBase, frozen=True, kw_only=True, tag="function", rename={"async_": "async"}):
    """A function that the client runs. `parameters` is a JSON Schema, kept as it came.

    `async`: the model goes on without the output, which may come in any later request. `defer_loading`: shown to the
    model only once a tool search found it.
    """

    name: str
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None
    defer_loading: bool | UnsetType = UNSET
    output_schema: JsonObject | UnsetType = UNSET
    allowed_callers: tuple[Caller, ...] | UnsetType = UNSET
    async_: bool | UnsetType = UNSET


class FormatBase(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What the input of a custom tool must look like."""


class TextInput(FormatBase, frozen=True, kw_only=True, tag="text"):
    """Any text."""


class Grammar(FormatBase, frozen=True, kw_only=True, tag="grammar"):
    """Text that the grammar derives: Lark as llguidance reads it, or a regular expression that the whole text fits."""

    syntax: Literal["lark", "regex"]
    definition: Annotated[str, Meta(min_length=1)]


class CustomTool(ToolBase, frozen=True, kw_only=True, tag="custom", rename={"async_": "async"}):
    """A tool of the client whose input is one text."""

    name: str
    description: str | UnsetType = UNSET
    format: TextInput | Grammar | UnsetType = UNSET
    defer_loading: bool | UnsetType = UNSET
    allowed_callers: tuple[Caller, ...] | UnsetType = UNSET
    async_: bool | UnsetType = UNSET


class NamespaceTool(ToolBase, frozen=True, kw_only=True, tag="namespace"):
    """Tools under one name; their calls carry it."""

    name: str
    description: str = ""
    tools: tuple[FunctionTool | CustomTool, ...]


class ToolSearchTool(ToolBase, frozen=True, kw_only=True, tag="tool_search"):
    """Finds deferred tools. Executed by the client, it is a call with these `parameters`, answered with tools; this
    server's own takes words."""

    execution: Literal["server", "client"] = "server"
    description: str | UnsetType = UNSET
    parameters: JsonObject | UnsetType = UNSET


class LocalSkill(Struct, frozen=True, kw_only=True):
    name: str
    description: str
    path: str


class LocalEnvironment(Struct, frozen=True, kw_only=True, tag_field="type", tag="local"):
    skills: tuple[LocalSkill, ...] | UnsetType = UNSET


class ShellTool(ToolBase, frozen=True, kw_only=True, tag="shell"):
    """A shell on the client's machine. One in a container of the server is `Unserved`."""

    environment: LocalEnvironment | UnsetType = UNSET
    allowed_callers: tuple[Caller, ...] | UnsetType = UNSET


class LocalShellTool(ToolBase, frozen=True, kw_only=True, tag="local_shell"):
    """The older form of the client's shell, which runs one command at a time."""


class ApplyPatchTool(ToolBase, frozen=True, kw_only=True, tag="apply_patch"):
    """Lets the model create, change and delete the client's files by diffs."""

    allowed_callers: tuple[Caller, ...] | UnsetType = UNSET


class ComputerTool(ToolBase, frozen=True, kw_only=True, tag="computer"):
    """Lets the model use the client's screen, mouse and keyboard."""


class ComputerUsePreviewTool(ToolBase, frozen=True, kw_only=True, tag="computer_use_preview"):
    """The older form of `computer`, one action a call."""

    display_height: int
    display_width: int
    environment: Literal["windows", "mac", "linux", "ubuntu", "browser"]


class ServerTool(ToolBase, frozen=True, kw_only=True):
    """A tool that this server runs itself."""

    NAMED_BY: ClassVar[str] = ""
    """The field that tells several declarations of one type apart, if there may be several."""
    SECRETS: ClassVar[tuple[str, ...]] = ()
    """Fields (a text, or texts by name) that are neither shown nor stored, and that no item may bring."""
    PRIVATE: ClassVar[tuple[str, ...]] = ()
    """Further ones that are stored only sealed."""

    def shown(self) -> Self:
        """As a response shows it."""
        return self


class ScriptedTool(ServerTool, frozen=True, kw_only=True, tag="antiphon:scripted"):
    """The scripted hosted tool: what its calls give is written in the server's settings or here, by name."""

    name: str = "scripted"
    output: str | UnsetType = UNSET
    defer_loading: bool | UnsetType = UNSET


class PluginTool(ServerTool, frozen=True, kw_only=True, tag="antiphon:tool"):
    """A tool that another package brought, by the name under which the server's settings turn it on. `config` is the
    plug-in's own; it is stored and shown, and so no place for secrets."""

    name: str
    config: JsonObject | UnsetType = UNSET
    defer_loading: bool | UnsetType = UNSET


class McpFilter(Struct, frozen=True, kw_only=True):
    """Tools that have one of these names, if names are given, and are marked read-only (or not), if that is."""

    tool_names: tuple[str, ...] | UnsetType | None = UNSET
    read_only: bool | UnsetType | None = UNSET


class McpApprovals(Struct, frozen=True, kw_only=True):
    """Which calls ask for approval. What neither names does."""

    always: McpFilter | UnsetType | None = UNSET
    never: McpFilter | UnsetType | None = UNSET


class McpTool(ServerTool, frozen=True, kw_only=True, tag="mcp"):
    """The tools of an MCP server: at `server_url`, or one of this server's settings, by its label."""

    NAMED_BY: ClassVar[str] = "server_label"
    SECRETS: ClassVar[tuple[str, ...]] = ("authorization", "headers")
    PRIVATE: ClassVar[tuple[str, ...]] = ("server_url",)

    server_label: Annotated[str, Meta(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,63}\Z")]
    server_url: str | UnsetType = UNSET
    server_description: str | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    authorization: str | UnsetType = UNSET
    """Sent as a bearer token."""
    allowed_tools: tuple[str, ...] | McpFilter | UnsetType = UNSET
    require_approval: Literal["always", "never"] | McpApprovals = "always"
    defer_loading: bool | UnsetType = UNSET
    allowed_callers: tuple[Caller, ...] | UnsetType = UNSET
    connector_id: Later = UNSET
    tunnel_id: Later = UNSET

    def shown(self) -> Self:
        """Paths and queries of such addresses often hold a key: the original shows the host alone, too."""
        secrets: dict[str, Any] = dict.fromkeys(self.SECRETS, UNSET)
        if self.server_url is not UNSET:
            scheme, _, rest = self.server_url.partition("://")
            secrets["server_url"] = f"{scheme}://{re.split('[/?#]', rest, maxsplit=1)[0]}/<redacted>"
        return structs.replace(self, **secrets)


class UserLocation(Struct, frozen=True, kw_only=True):
    """About where the user is. `country` is an ISO code of two letters, `timezone` one of IANA's."""

    type: Literal["approximate"] = "approximate"
    city: str | None = None
    country: Annotated[str, Meta(pattern=r"^[A-Za-z]{2}$")] | None = None
    region: str | None = None
    timezone: str | None = None


Domain: TypeAlias = Annotated[str, Meta(max_length=253, pattern=r"^[^\s/:@?#.]+(\.[^\s/:@?#.]+)*$")]


class WebFilters(Struct, frozen=True, kw_only=True):
    """Each domain stands for those below it, too."""

    allowed_domains: Annotated[tuple[Domain, ...], Meta(max_length=100)] | None = None
    blocked_domains: Annotated[tuple[Domain, ...], Meta(max_length=100)] | None = None


class WebSearchBase(ServerTool, frozen=True, kw_only=True):
    """Searches the web and reads its pages."""

    search_context_size: Literal["low", "medium", "high"] = "medium"
    user_location: UserLocation = UserLocation(country="US")
    """As the reference has it where none is given; `{"type": "approximate"}` is nowhere."""


class FilteredWebSearch(WebSearchBase, frozen=True, kw_only=True):
    """`external_web_access`: false keeps to what is at hand."""

    external_web_access: bool | UnsetType = UNSET
    filters: WebFilters | None = None


class WebSearchTool(FilteredWebSearch, frozen=True, kw_only=True, tag="web_search"):
    pass


class WebSearchTool20250826(FilteredWebSearch, frozen=True, kw_only=True, tag="web_search_2025_08_26"):
    pass


class PreviewWebSearch(WebSearchBase, frozen=True, kw_only=True):
    """The older form."""

    search_content_types: tuple[Literal["text", "image"], ...] | UnsetType = UNSET


class WebSearchPreviewTool(PreviewWebSearch, frozen=True, kw_only=True, tag="web_search_preview"):
    pass


class WebSearchPreviewTool20250311(PreviewWebSearch, frozen=True, kw_only=True, tag="web_search_preview_2025_03_11"):
    pass


class Unserved(ToolBase, frozen=True, kw_only=True, tag="antiphon:unserved"):
    """A hosted tool of the reference that this server cannot run: `kind` is its type. The codec makes these, so that
    a tool which is merely offered can be left out and named."""

    kind: str


Tool: TypeAlias = (
    FunctionTool
    | CustomTool
    | NamespaceTool
    | ToolSearchTool
    | ShellTool
    | LocalShellTool
    | ApplyPatchTool
    | ComputerTool
    | ComputerUsePreviewTool
    | ScriptedTool
    | PluginTool
    | McpTool
    | WebSearchTool
    | WebSearchTool20250826
    | WebSearchPreviewTool
    | WebSearchPreviewTool20250311
    | Unserved
)

HOSTED = frozenset({"file_search", "code_interpreter", "image_generation", "programmatic_tool_calling"})
"""Types of tools that only a server can run."""
DECLARED_MAX = 10_000
"""Tools in one request, with those that wait to be found and those in namespaces: looking at them takes its time."""


class ChoiceBase(Struct, frozen=True, kw_only=True, tag_field="type"):
    """`tool_choice`: which tool must be called."""


class NamedFunction(ChoiceBase, frozen=True, kw_only=True, tag="function"):
    name: str


class NamedCustom(ChoiceBase, frozen=True, kw_only=True, tag="custom"):
    name: str


class ChosenShell(ChoiceBase, frozen=True, kw_only=True, tag="shell"):
    pass


class ChosenApplyPatch(ChoiceBase, frozen=True, kw_only=True, tag="apply_patch"):
    pass


class ChosenComputer(ChoiceBase, frozen=True, kw_only=True, tag="computer"):
    pass


class ChosenComputerUse(ChoiceBase, frozen=True, kw_only=True, tag="computer_use"):
    pass


class ChosenComputerPreview(ChoiceBase, frozen=True, kw_only=True, tag="computer_use_preview"):
    pass


class ChosenMcp(ChoiceBase, frozen=True, kw_only=True, tag="mcp"):
    """A tool of that server: the one of that `name`, or whichever the model takes."""

    server_label: str
    name: str | UnsetType | None = UNSET


class ChosenWebSearch(ChoiceBase, frozen=True, kw_only=True, tag="web_search"):
    pass


class ChosenWebSearchPreview(ChoiceBase, frozen=True, kw_only=True, tag="web_search_preview"):
    pass


class ChosenWebSearchPreview20250311(ChoiceBase, frozen=True, kw_only=True, tag="web_search_preview_2025_03_11"):
    pass


class AllowedTools(ChoiceBase, frozen=True, kw_only=True, tag="allowed_tools"):
    """All tools are shown to the model, but only these may be called. `tools` name them: `{type, name, …}`."""

    mode: Literal["auto", "required"]
    tools: tuple[JsonObject, ...]


Chosen: TypeAlias = (
    NamedFunction
    | NamedCustom
    | ChosenShell
    | ChosenApplyPatch
    | ChosenComputer
    | ChosenComputerUse
    | ChosenComputerPreview
    | ChosenMcp
    | ChosenWebSearch
    | ChosenWebSearchPreview
    | ChosenWebSearchPreview20250311
)
"""One tool that must be called."""
ToolChoice: TypeAlias = Literal["none", "auto", "required"] | Chosen | AllowedTools
