"""Citations: the marks by which a model cites what this server's tools told it, and what readers see in their place.

A tool gives each source a short mark (hosted.Source), made from what it is, so that it is the same in every turn. The
model is told to write 【mark】; readers get the source's text there, and the annotation that spans it. A mark that
nobody gave is dropped. Pure.

The reader holds back no more than what may yet become a mark. Logprobs of what is replaced are dropped with it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from antiphon.core.deltas import Annotate, Delta, Text
from antiphon.core.hosted import Source, Tool, runner_of
from antiphon.wire.items import HostedCall, Item, Logprob

LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
DIGITS = "23456789"
"""A mark ends in one of them, so that no word in brackets is taken for a mark."""
LETTERS_OF_A_MARK = 4
OPENS, CLOSES = "【", "】"
HELD_CHARS_MAX = 48
"""Room for five marks in one pair of brackets."""

_MARK = rf"[a-z2-7]{{{LETTERS_OF_A_MARK}}}[2-9]"
_MARKS = re.compile(rf"{OPENS} *{_MARK}(?:[ ,;、]+{_MARK})* *(?:†[^{OPENS}{CLOSES}\n]*)?{CLOSES}")
"""One or several; some models write more behind a dagger, as they have learnt it."""
_ONE = re.compile(_MARK)
_BEGUN = re.compile(rf"{OPENS}[a-z2-9 ,;、]*\Z")


def mark(digest: bytes) -> str:
    """Of something with that hash, of which 23 bits are used."""
    number = int.from_bytes(digest[:4], "big")
    letters = "".join(LETTERS[number >> 5 * place & 31] for place in range(LETTERS_OF_A_MARK))
    return letters + DIGITS[number >> 5 * LETTERS_OF_A_MARK & 7]


def cited(name: str) -> str:
    """How the model is to write that mark."""
    return f"{OPENS}{name}{CLOSES}"


def sources(items: Iterable[Item], runners: Mapping[str, Tool]) -> Iterator[Source]:
    """What may be cited of these items."""
    for item in items:
        runner = runner_of(item, runners) if isinstance(item, HostedCall) else None
        if runner is not None:
            yield from runner.sources(item)  # type: ignore[arg-type] # a runner's items are hosted calls


class Citing:
    """Feed it the deltas of one turn. With `writes` false, in an answer that must fit a schema, marks are dropped."""

    def __init__(self, known: Iterable[Source], *, writes: bool) -> None:
        self._known: dict[str, Source] = {}
        for source in known:
            self._known.setdefault(source.mark, source)
        self._writes = writes
        self._held = ""
        self._logprobs: tuple[Logprob, ...] = ()
        self._key = "0"
        self._last = ""
        """What was said last, to set a citation apart from it."""

    def read(self, batch: Sequence[Delta]) -> Iterator[Delta]:
        for delta in batch:
            if type(delta) is not Text:
                yield from self._release()
                self._last = ""
                yield delta
            elif not self._held and OPENS not in delta.text:
                self._last = delta.text[-1:] or self._last
                yield delta
            else:
                yield from self._take(delta)

    def _take(self, delta: Text) -> Iterator[Delta]:
        if delta.key != self._key:
            yield from self._release()
            self._key = delta.key
        self._logprobs += delta.logprobs
        text = self._held + delta.text
        while (place := text.find(OPENS)) >= 0:
            yield from self._say(text[:place])
            text = text[place:]
            end = text.find(CLOSES)
            if end < 0:
                place = text.rfind(OPENS)
                yield from self._say(text[:place])
                text = text[place:]
                break
            yield from self._close(text[: end + 1])
            text = text[end + 1 :]
        if text.startswith(OPENS) and len(text) <= HELD_CHARS_MAX and "\n" not in text:
            self._held = text
        else:
            self._held = ""
            yield from self._say(text, told=self._logprobs)
            self._logprobs = ()

    def _close(self, text: str) -> Iterator[Delta]:
        """What stands in brackets: marks, or anything else."""
        place = text.rfind(OPENS)
        yield from self._say(text[:place])
        text = text[place:]
        told, self._logprobs = self._logprobs, ()
        if len(text) > HELD_CHARS_MAX + 1 or not _MARKS.fullmatch(text):
            yield from self._say(text, told)
            return
        for name in _ONE.findall(text.partition("†")[0]):
            source = self._known.get(name)
            if source is not None and self._writes:
                gap = " " if self._last and not self._last.isspace() else ""
                yield from self._say(gap + source.text)
                yield Annotate(source.citation, self._key, spans=len(source.text))

    def _say(self, text: str, told: tuple[Logprob, ...] = ()) -> Iterator[Text]:
        if text:
            self._last = text[-1]
            yield Text(text, self._key, told)

    def _release(self) -> Iterator[Text]:
        """No more comes: what may have become a mark is none, and what was surely one is cut off."""
        text, told = self._held, self._logprobs
        self._held, self._logprobs = "", ()
        if text and not _BEGUN.fullmatch(text):
            yield from self._say(text, told)
