"""The builder keeps the laws, whatever models and tools do; and the laws are sharp enough to kill mutants of it."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from antiphon.core import builder as real
from antiphon.core.deltas import (
    Annotate,
    Delta,
    Finish,
    Phase,
    Refusal,
    Sealed,
    Summary,
    Text,
    Thought,
    ToolCall,
    joined,
)
from antiphon.wire.items import Logprob, UrlCitation
from tests.laws import DIGITS, HOSTED, NOTE, SHELL, Script, Turn, check, play, skeleton

PIECES = st.sampled_from(
    ['{"input": "', "\\ud83d", "\\ude00\\n", '12"}', '{"input":"7"}', '{"commands": ["ls", "pwd"]}', '{"commands": 1}']
)
"""Of the documents in which models wrap what is no function's arguments."""
CITATION = UrlCitation(url="http://a.example", title="a", start_index=0, end_index=1)
LOGPROB = Logprob(token="a", logprob=-0.5)
TEXTS = st.text(st.sampled_from('ab{}" \né\U0001f600'), max_size=6)


@st.composite
def turns(draw: st.DrawFn) -> tuple[Delta, ...]:
    """What one turn of a model may hold: text of any kind, and calls whose fragments interleave."""
    deltas: list[Delta] = []
    named: set[str] = set()
    writing_text = False
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["text", "refusal", "thought", "summary", "sealed", "call", "annotate", "phase"]))
        if kind == "call":
            key = draw(st.sampled_from(["0", "1", "2"]))
            name = None if key in named else draw(st.sampled_from(["f", "g", NOTE, DIGITS, SHELL, HOSTED]))
            piece = draw(TEXTS | PIECES)
            deltas.append(ToolCall(key, piece, name=name, call_id=draw(st.sampled_from([None, f"call_{key}"]))))
            writing_text = writing_text and name is None  # a call that begins ends the text before it
            named.add(key)
        elif kind == "phase":
            deltas.append(Phase(draw(st.sampled_from(["commentary", "final_answer"]))))
            writing_text = False
        elif kind == "sealed":
            deltas.append(Sealed(draw(st.sampled_from(["a secret", "another"]))))
            writing_text = False
        elif kind == "annotate":
            if writing_text:
                deltas.append(Annotate(CITATION))
        else:
            deltas.append(draw(_written(kind)))
            writing_text = kind == "text"
    return tuple(deltas)


def _written(kind: str) -> st.SearchStrategy[Delta]:
    if kind == "text":
        return st.builds(Text, TEXTS, logprobs=st.sampled_from([(), (LOGPROB,)]))
    if kind == "summary":
        return st.builds(Summary, TEXTS, part=st.integers(0, 2))
    return st.builds(Refusal if kind == "refusal" else Thought, TEXTS)


SCRIPTS = st.builds(
    Script,
    st.lists(
        st.builds(
            Turn,
            turns(),
            st.lists(st.sampled_from(["searching"]), max_size=2).map(tuple),
            st.sampled_from(["completed", "failed", "never"]),
            st.booleans(),
            st.sampled_from([None, None, "first", "never done"]),
        ),
        max_size=3,
    ).map(tuple),
    st.sampled_from(["completed", "incomplete", "failed", "cancelled"]),
    turns(),
    st.booleans(),
)


@given(SCRIPTS)
@settings(max_examples=300, deadline=None)
def test_whatever_is_said_the_laws_hold(script: Script) -> None:
    check(script)


@given(SCRIPTS)
@settings(max_examples=300, deadline=None)
def test_what_is_said_in_fewer_pieces_comes_to_the_same(script: Script) -> None:
    fewer = tuple(structs.replace(turn, deltas=tuple(joined(turn.deltas))) for turn in script.turns)

    assert play(structs.replace(script, turns=fewer))[1] == play(script)[1]


def test_texts_that_follow_each_other_are_one_piece() -> None:
    plain = (Thought("h"), Thought("m"), Text("a"), Text("b"), Text("", "1"), Text("c"), Finish("stop"))
    beside = (Text("d", logprobs=(LOGPROB,)), Text("e"), Refusal("f"), Refusal("g"))

    assert joined(plain) == [Thought("hm"), Text("ab"), Text("", "1"), Text("c"), Finish("stop")]
    assert joined(beside) == list(beside)


def test_parallel_calls_keep_their_own_index_and_arguments() -> None:
    deltas = (ToolCall("a", '{"x"', name="f"), ToolCall("b", "{}", name="g"), ToolCall("a", ":1}"))

    _, response = play(Script((Turn(deltas),)))

    assert [(item.name, item.arguments) for item in response.output] == [("f", '{"x":1}'), ("g", "{}")]  # type: ignore[union-attr]


def test_the_item_that_a_limit_cut_is_incomplete_and_the_last() -> None:
    script = Script((Turn((Thought("hm"), Text("half a"), Finish("length")), cut_short=True),), "incomplete")

    _, response = play(script)

    assert [getattr(item, "status", "") for item in response.output] == ["completed", "incomplete"]


def test_a_cancelled_response_ends_in_an_incomplete_event_that_says_so() -> None:
    events, response = play(Script((), "cancelled", (Text("half"),)))

    assert response.status == "cancelled"
    assert getattr(response.output[0], "status", "") == "incomplete"
    assert type(events[-1]).__name__ == "ResponseIncomplete"


def test_nothing_can_follow_the_terminal_event() -> None:
    builder = real.Builder(skeleton(), lambda prefix: f"{prefix}_1")
    builder.start()
    builder.append(builder.propose("completed", now=1))

    with pytest.raises(AssertionError):
        builder.append(builder.propose("completed", now=1))


# -- mutants: each is one slip in builder.py that the laws must notice

MUTANTS = {
    "a delta is not gathered": ("        part.chunks.append(text)\n", ""),
    "a delta is gathered twice": ("part.chunks.append(text)\n", "part.chunks.extend((text, text))\n"),
    "a delta says something else than what is gathered": (
        "part.index, text)\n        self._sequence += 1",
        "part.index, text.strip())\n        self._sequence += 1",
    ),
    "an argument fragment is lost from the item": ("        draft.chunks.append(text)\n", ""),
    "an argument fragment is lost from the stream": (
        "        self.append(CALLS[type(draft.item)].delta(self._sequence, draft.id, draft.index, text))\n",
        "",
    ),
    "a custom tool's input is not unwrapped": (
        "delta.arguments if draft.reader is None else draft.reader.feed(delta.arguments)",
        "delta.arguments",
    ),
    "the end of an input that is not wrapped is lost": ("self._write_call(draft, rest)", "pass"),
    "a call that comes whole is told when it is added": ('{kind.field: ""} if kind else {}', "{}"),
    "a call that comes whole is not shown": ("client.append(self._add_whole(judged))", "client.append(judged)"),
    "the order of phases is lost": (
        "            self._close_written()\n            self._phase = delta.phase\n",
        "            self._phase = delta.phase\n",
    ),
    "a sequence number is skipped": (
        "        self._sequence += 1\n        self._pending.append(event)\n        if",
        "        self._sequence += 2\n        self._pending.append(event)\n        if",
    ),
    "every item has index 0": ("        index = len(self._items)\n        draft", "        index = 0\n        draft"),
    "a part is not closed": ("        self._close_part(draft)\n        kind = CALLS", "        kind = CALLS"),
    "a part is closed twice": ("        draft.open = None\n", ""),
    "part.done is not sent": ("        self.append(part.kind.part_done(self._sequence, *place, finished))\n", ""),
    "text.done is not sent": (
        '        self.append(part.kind.text_done(self._sequence, *place, "".join(part.chunks), *logprobs))\n',
        "",
    ),
    "text.done brings news": (
        '*place, "".join(part.chunks), *logprobs',
        '*place, "".join(part.chunks) + "!", *logprobs',
    ),
    "arguments.done brings news": ('draft.index, "".join(draft.chunks)', 'draft.index, "".join(draft.chunks) + "}"'),
    "arguments.done is not sent": (
        '            self.append(kind.done(self._sequence, draft.id, draft.index, "".join(draft.chunks)))\n',
        "            pass\n",
    ),
    "a second part takes the first one's index": ("len(draft.parts.get(kind.field, ()))", "0"),
    "an item's end is not told": ("        self.append(ev.OutputItemDone(self._sequence, index, item))\n", ""),
    "an item is done under another id": (
        "        self._items[index] = item\n",
        '        item = structs.replace(item, id="msg_x")\n        self._items[index] = item\n',
    ),
    "a finished item is told under the next index": (
        "ev.OutputItemDone(self._sequence, index, item)",
        "ev.OutputItemDone(self._sequence, index + 1, item)",
    ),
    "an item begins under another index": (
        "ev.OutputItemAdded(self._sequence, index, draft.item)",
        "ev.OutputItemAdded(self._sequence, 7, draft.item)",
    ),
    "a part is not announced": (
        '        self.append(kind.part_added(self._sequence, draft.id, draft.index, part.index, kind.part("")))\n',
        "",
    ),
    "the output is sorted by another order": (
        "for i, item in enumerate(self._items))",
        "for i, item in reversed(list(enumerate(self._items))))",
    ),
    "an annotation is told but not kept": ("        part.annotations.append(annotation)\n", ""),
    "an annotation is kept but not told": (
        "        self.append(ev.AnnotationAdded(self._sequence, *place, annotation))\n",
        "",
    ),
    "annotations share an index": ("part.index, len(part.annotations))", "part.index, 0)"),
    "logprobs are not gathered": ("            part.logprobs.extend(delta.logprobs)\n", ""),
    "a summary part goes on under a new label": (" or part.label != label", " and part.label != label"),
    "another kind of part goes on in the open one": ("part.kind is not kind or", "False or"),
    "a message goes on after reasoning": (
        "        self._close_written()\n        item = EMPTY[kind]",
        "        item = EMPTY[kind]",
    ),
    "parallel calls share a draft": (
        "        draft = self._drafts.get((ToolCall, delta.key))\n",
        "        draft = next((d for k, d in self._drafts.items() if k[0] is ToolCall), None)\n",
    ),
    "a hosted call's arguments are lost": ("                gathered.chunks.append(delta.arguments)\n", ""),
    "a hosted call's end is not told": (
        "        del self._running[index]\n        self._done(index, done)\n",
        "        del self._running[index]\n        self._items[index] = done\n",
    ),
    "a hosted status is told before it is true": (
        "        self._running[index] = in_status(self._running[index], status)\n",
        "",
    ),
    "running calls are forgotten at the end": (
        '            self._done(index, in_status(item, "incomplete"))\n',
        "",
    ),
    "what a vendor sealed is lost": ("            draft.sealed = delta.text\n", ""),
    "a thought is not sealed": ("            done = self._seal(done, draft.sealed)\n", "            pass\n"),
    "created is not sent": (
        "            self.append(ev.ResponseCreated(self._sequence, self._response))\n",
        "            pass\n",
    ),
    "the terminal event loses the output": (
        "            self.response,\n            status=status,",
        "            self.response,\n            output=(),\n            status=status,",
    ),
}

EXAMPLES = (
    Script((Turn((Thought("hm "), Thought(" so"), Text(" a "), Text("b"), Annotate(CITATION), Annotate(CITATION))),)),
    Script((Turn((Text("a"), Refusal(" no"), Text("b", logprobs=(LOGPROB,)), Thought("x"), Text("c"))),)),
    Script((Turn((Summary("a", part=0), Summary("b", part=1), Summary("c", part=1))),)),
    Script((Turn((Text("t"), ToolCall("0", "{", name="f"), ToolCall("1", "{}", name="g"), ToolCall("0", "}"))),)),
    Script((Turn((ToolCall("0", '{"q"', name=HOSTED), ToolCall("0", ":1}"), ToolCall("1", "{}", name=HOSTED)),
                 ("searching",)), Turn((Text("done"),)))),
    Script((Turn((ToolCall("0", "{}", name=HOSTED),), (), "never"),), "cancelled"),
    Script((Turn((ToolCall("1", "x", name=NOTE),)),)),
    Script((Turn((ToolCall("0", '{"input": "a\\\\n', name=NOTE), ToolCall("0", 'b"}'))),)),
    Script((Turn((ToolCall("0", '{"inp', name=NOTE),)),)),
    Script((Turn((ToolCall("0", '{"input": "12"}', name=DIGITS), ToolCall("1", '{"input": "no"}', name=DIGITS))),)),
    Script((Turn((ToolCall("0", '{"commands": ["ls"]}', name=SHELL), ToolCall("1", "{", name=SHELL))),)),
    Script((Turn((Phase("commentary"), Text("a"), Phase("final_answer"), Text("b"))),)),
    Script((Turn((Thought("one"), Text("two"))),), thought_as_summary=True),
    Script((Turn((Thought("one"), Sealed("secret"), Text("two"), Sealed("mute"), ToolCall("0", "{}", name="f"))),)),
    Script((), "failed", (Text("half"), ToolCall("0", '{"a', name="f"))),
)  # fmt: skip


@pytest.fixture
def mutated(tmp_path: Path) -> Iterator[object]:
    source = Path(real.__file__).read_text(encoding="utf-8")

    def load(old: str, new: str) -> ModuleType:
        assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in builder.py"
        path = tmp_path / "mutant.py"
        path.write_text(source.replace(old, new), encoding="utf-8")
        spec = importlib.util.spec_from_file_location("mutant", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    sys.modules.pop("mutant", None)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_that_kill_mutants_are_lawful_themselves(example: Script) -> None:
    check(example)


@pytest.mark.parametrize("name", MUTANTS)
def test_the_laws_kill_the_mutant(name: str, mutated) -> None:  # type: ignore[no-untyped-def] # a factory
    mutant = mutated(*MUTANTS[name])

    assert any(_breaks(example, mutant) for example in EXAMPLES), f"{name}: no law noticed"


def _breaks(script: Script, module: ModuleType) -> bool:
    try:
        check(script, module)
    except Exception:  # noqa: BLE001 # a mutant may break in any way; that it does is the point
        return True
    return False
