"""Tool search: the deferred tools of a request, which its model finds by words. Pure; makes no event and no id.

A tool is the words of its name, its namespace, its description, its parameters and what is said of them; those that fit
a query best are found by BM25 (Robertson and Zaragoza 2009), ties in order of declaration. Who is called by name comes
first.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from math import log
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from antiphon.core.prompt import Offer
from antiphon.wire.items import ToolSearchCall, ToolSearchOutput
from antiphon.wire.tools import JsonObject

NAME = "tool_search"
FOUND = 5
FOUND_MAX = 20
"""How many tools a search gives if nobody says, and at most: each is shown to the model from then on."""
TEXT_CHARS_MAX = 2_000
"""Of a tool's description, and of one parameter's, that are searched."""
PARAMETERS_MAX = 200
WORDS_MAX = 50
"""Of a query."""
GROUPS_MAX = 100
GROUP_CHARS_MAX = 300
"""Of what is said about where tools can be found."""


class Group(Struct, frozen=True):
    """What tools are declared in. `declare` gives it with only these."""

    name: str
    description: str
    declare: Callable[[Sequence["Deferred"]], JsonObject]


class Deferred(NamedTuple):
    """A tool that waits to be found. The model will know it by `offer.name`; `declaration` is as a request has it."""

    name: str
    offer: Offer
    declaration: Any
    group: Group | None


class Unfound(Struct, frozen=True):
    """A call of what this server would run, had it been found: no client could make it."""


class _Arguments(Struct):
    query: Annotated[str, Meta(min_length=1)]
    limit: Annotated[int, Meta(ge=1, le=FOUND_MAX)] = FOUND


PARAMETERS: JsonObject = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "description": "Words for what the tool should do, or its name."},
        "limit": {"type": "integer", "description": f"How many tools to find, at most {FOUND_MAX}; {FOUND} if absent."},
    },
    "required": ["query"],
    "additionalProperties": False,
}
DESCRIPTION = "Finds more tools by what they do. Those that it gives can be called from the next turn on."


class Search:
    """What calls of `tool_search` are about. The index is made when somebody searches."""

    def __init__(self, tools: Sequence[Deferred], description: str | UnsetType, indexes: "Indexes") -> None:
        self.tools = tuple(tools)
        self._description = DESCRIPTION if description is UNSET else description
        self._indexes = indexes

    def offer(self) -> Offer:
        described = f"{self._description}\n\n{self._contents()}"
        return Offer(name=NAME, description=described, parameters=PARAMETERS)

    def _contents(self) -> str:
        counts = Counter(tool.group.name if tool.group else "" for tool in self.tools)
        groups = {tool.group.name: tool.group for tool in self.tools if tool.group}
        lines = [f"{len(self.tools)} tools can be found" + (", among them:" if groups else ".")]
        for group in islice(groups.values(), GROUPS_MAX):
            about = f": {group.description[:GROUP_CHARS_MAX]}" if group.description else ""
            lines.append(f"- {group.name} ({counts[group.name]}){about}")
        return "\n".join(lines + ["- …"] * (len(groups) > GROUPS_MAX))

    def waits(self, kind: str, name: str) -> bool:
        """Whether what a choice means, which names no single tool, can be found."""
        if kind == "namespace":
            return any(tool.group is not None and tool.group.name == name for tool in self.tools)
        kinds = {str(tool.declaration.__struct_config__.tag) for tool in self.tools} - {"function", "custom"}
        return kind in kinds

    def lift(self, arguments: str) -> ToolSearchCall:
        """Raises ValueError for arguments that make no search."""
        _read(arguments)
        return ToolSearchCall(status="completed", arguments=msgspec.json.decode(arguments), execution="server")

    def output(self, call: ToolSearchCall) -> ToolSearchOutput:
        wanted = msgspec.convert(call.arguments, _Arguments)
        found = self._indexes.of(self.tools).find(wanted.query, wanted.limit)
        return ToolSearchOutput(status="completed", execution="server", tools=tuple(_declared(found)))


def _read(arguments: str) -> _Arguments:
    try:
        return msgspec.json.decode(arguments or "{}", type=_Arguments)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _declared(found: Sequence[Deferred]) -> Iterator[JsonObject]:
    """As they were declared, those of one group together where the first of them was found."""
    told: set[int] = set()
    for tool in found:
        if tool.group is None:
            yield plain(tool.declaration)
        elif id(tool.group) not in told:
            told.add(id(tool.group))
            yield tool.group.declare([one for one in found if one.group is tool.group])


def plain(declaration: Struct) -> JsonObject:
    """A declaration as JSON, without what it does not say."""
    return {name: value for name, value in msgspec.to_builtins(declaration).items() if value is not None}


# -- the index

K, B = 1.2, 0.75
"""BM25's: how soon a word said again counts no more, and how much long texts are held back."""
NAME_WEIGHT, GROUP_WEIGHT = 4, 2
_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_STOP = frozenset(
    re.findall(r"\w+", "a an and any are as at be by can for from i in into is it me my of on or that the this to with")
)


class Index:
    """A text for each tool, in which what is asked for is counted: to count every word of 10,000 tools beforehand takes
    twenty times as long as a search."""

    def __init__(self, tools: Sequence[Deferred]) -> None:
        self._tools = tools
        self._texts = [_text(tool) for tool in tools]
        self._average = sum(map(len, self._texts)) / max(1, len(tools))
        self._called: dict[str, list[int]] = {}
        for number, tool in enumerate(tools):
            for name in {tool.name, tool.offer.name}:
                self._called.setdefault(name, []).append(number)

    def find(self, query: str, limit: int) -> list[Deferred]:
        scores: dict[int, float] = {}
        for word in dict.fromkeys(_words(query)):
            told = self._counted(word)
            rarity = log(1 + (len(self._tools) - len(told) + 0.5) / (len(told) + 0.5))
            for number, count in told.items():
                held_back = K * (1 - B + B * len(self._texts[number]) / self._average)
                scores[number] = scores.get(number, 0.0) + rarity * count * (K + 1) / (count + held_back)
        named = {part.strip(".,;:'\"`()[]") for part in query.split()} | {query.strip()}
        called = {number for name in named for number in self._called.get(name, ())}
        best = sorted(scores.keys() | called, key=lambda one: (one not in called, -scores.get(one, 0.0), one))
        return [self._tools[number] for number in best[:limit]]

    def _counted(self, word: str) -> dict[int, int]:
        """How often a tool has the word, also in the plural."""
        root, endings = (word[:-1], "y|ies") if word.endswith("y") else (word, "|s|es")
        whole = re.compile(rf"(?<![^\W_]){re.escape(root)}(?:{endings})(?![^\W_])")
        counts = {n: len(whole.findall(text)) for n, text in enumerate(self._texts) if root in text}
        return {number: count for number, count in counts.items() if count}


class Indexes:
    """The latest index, which is good as long as the tools are the same: a request whose model searches again, and one
    whose tools grew in between."""

    __slots__ = ("_index", "_key")

    def __init__(self) -> None:
        self._key: list[tuple[str, str | None]] = []
        self._index: Index | None = None

    def of(self, tools: Sequence[Deferred]) -> Index:
        key = [(tool.offer.name, tool.offer.description) for tool in tools]
        if self._index is None or key != self._key:
            self._key, self._index = key, Index(tools)
        return self._index


def _text(tool: Deferred) -> str:
    """All that a tool says of itself, what says more as often as it counts more."""
    texts = [_apart(tool.name)] * NAME_WEIGHT
    if tool.group is not None:
        texts += [_apart(tool.group.name)] * GROUP_WEIGHT + [tool.group.description[:TEXT_CHARS_MAX]]
    texts.append((tool.offer.description or "")[:TEXT_CHARS_MAX])
    texts += islice(_parameters(tool.offer.parameters), PARAMETERS_MAX)
    return "\n".join(texts).lower()


def _parameters(schema: Any) -> Iterator[str]:
    """The names of an object's properties, and what is said of them."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    for name, about in properties.items() if isinstance(properties, dict) else ():
        yield _apart(name)
        described = about.get("description") if isinstance(about, dict) else None
        if isinstance(described, str):
            yield described[:TEXT_CHARS_MAX]


def _apart(name: str) -> str:
    """A name as the words that it is put together from."""
    return " ".join(_PIECE.findall(name))


def _words(query: str) -> Iterator[str]:
    for piece in islice(_PIECE.finditer(query), WORDS_MAX):
        word = piece[0].lower()
        if word not in _STOP:
            yield _singular(word)


def _singular(word: str) -> str:
    """The rest of English is left to whoever asks."""
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 4 and word.endswith(("xes", "ches", "shes", "sses")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
