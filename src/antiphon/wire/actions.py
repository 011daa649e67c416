"""Actions: what calls of shells, patches and computers ask a client to do, and what came of it. Data only.

Source: openai 3.54.0 types/responses, `ResponseFunctionShellToolCall`, `ResponseApplyPatchToolCall`,
`ResponseComputerToolCall`, `LocalShellCall` and their outputs.
"""

from typing import Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType


class ShellAction(Struct, frozen=True, kw_only=True):
    """Commands to run. Times are in milliseconds, lengths in characters."""

    commands: tuple[str, ...]
    max_output_length: int | None = None
    timeout_ms: int | None = None


class Tagged(Struct, frozen=True, kw_only=True, tag_field="type"):
    """One of several forms, told apart by `type`."""


class Exited(Tagged, frozen=True, kw_only=True, tag="exit"):
    exit_code: int | None = None
    """None where the client does not know: so the Agents SDK sends it."""


class TimedOut(Tagged, frozen=True, kw_only=True, tag="timeout"):
    pass


class ShellOutput(Struct, frozen=True, kw_only=True):
    """What one command gave."""

    outcome: Exited | TimedOut
    stderr: str
    stdout: str
    created_by: str | UnsetType = UNSET


class LocalShellAction(Tagged, frozen=True, kw_only=True, tag="exec"):
    command: tuple[str, ...]
    env: dict[str, str] = {}
    timeout_ms: int | None = None
    user: str | None = None
    working_directory: str | None = None


class CreateFile(Tagged, frozen=True, kw_only=True, tag="create_file"):
    diff: str
    path: str


class UpdateFile(Tagged, frozen=True, kw_only=True, tag="update_file"):
    diff: str
    path: str


class DeleteFile(Tagged, frozen=True, kw_only=True, tag="delete_file"):
    path: str


PatchOperation: TypeAlias = CreateFile | UpdateFile | DeleteFile


class Point(Struct, frozen=True, kw_only=True):
    """Pixels from the upper left."""

    x: int
    y: int


Keys: TypeAlias = tuple[str, ...] | UnsetType
"""Keys held down meanwhile."""


class Click(Tagged, frozen=True, kw_only=True, tag="click"):
    button: Literal["left", "right", "wheel", "back", "forward"]
    x: int
    y: int
    keys: Keys = UNSET


class DoubleClick(Tagged, frozen=True, kw_only=True, tag="double_click"):
    x: int
    y: int
    keys: Keys = UNSET


class Drag(Tagged, frozen=True, kw_only=True, tag="drag"):
    path: tuple[Point, ...]
    keys: Keys = UNSET


class Keypress(Tagged, frozen=True, kw_only=True, tag="keypress"):
    keys: tuple[str, ...]


class Move(Tagged, frozen=True, kw_only=True, tag="move"):
    x: int
    y: int
    keys: Keys = UNSET


class Screenshot(Tagged, frozen=True, kw_only=True, tag="screenshot"):
    pass


class Scroll(Tagged, frozen=True, kw_only=True, tag="scroll"):
    scroll_x: int
    scroll_y: int
    x: int
    y: int
    keys: Keys = UNSET


class Type(Tagged, frozen=True, kw_only=True, tag="type"):
    text: str


class Wait(Tagged, frozen=True, kw_only=True, tag="wait"):
    pass


ComputerAction: TypeAlias = Click | DoubleClick | Drag | Keypress | Move | Screenshot | Scroll | Type | Wait


class SafetyCheck(Struct, frozen=True, kw_only=True):
    id: str
    code: str | None = None
    message: str | None = None


class ComputerScreenshot(Tagged, frozen=True, kw_only=True, tag="computer_screenshot"):
    """By exactly one of the two."""

    image_url: str | UnsetType = UNSET
    file_id: str | UnsetType = UNSET
