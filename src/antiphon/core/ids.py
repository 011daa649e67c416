"""The shapes of ids. Where randomness and time come from is handed in."""

from collections.abc import Callable
from typing import TypeAlias

ID_CHARS_MAX = 128
"""An id that a client hands in: ours are 53 characters; other servers' fit too."""

NewId: TypeAlias = Callable[[str], str]
"""Makes an id of a prefix: `resp` gives resp_0f60…, never the same twice."""
Clock: TypeAlias = Callable[[], int]
"""The time in whole Unix seconds."""
