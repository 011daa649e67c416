"""Whether a model did what it was asked: the guard of tool_choice and parallel_tool_calls. Knows no server.

Many servers take these two and ignore them.
"""

from antiphon.core.deltas import Delta, Finish, ToolCall
from antiphon.core.prompt import Named, Prompt
from antiphon.errors import ModelError


class ToolChoiceIgnored(ModelError):
    """The model server ignored tool_choice or parallel_tool_calls."""


class ToolChoiceGuard:
    """Lets deltas through when the model keeps to the prompt's tool choice, else raises ToolChoiceIgnored.

    Deltas wait only while it is open whether the turn must be asked for again: for a required call until one starts,
    for at most one call from the first call to the end.
    """

    def __init__(self, prompt: Prompt) -> None:
        choice = prompt.tool_choice
        self._is_idle = not prompt.tools or (choice == "auto" and prompt.parallel_tool_calls)
        self._must_call = choice == "required" or isinstance(choice, Named)
        self._is_single = not prompt.parallel_tool_calls
        self._permitted = _permitted(prompt)
        self._choice = f"the function {choice.name!r}" if isinstance(choice, Named) else repr(choice)
        if choice == "required" and prompt.allowed is not None:
            self._choice = f"one of {', '.join(map(repr, sorted(prompt.allowed)))}"
        self._calls: set[str] = set()
        self._is_finished = False
        self._held: list[Delta] = []

    def admit(self, batch: list[Delta]) -> list[Delta]:
        """What may be passed on now."""
        if self._is_idle:
            return batch
        for delta in batch:
            if isinstance(delta, ToolCall) and delta.key not in self._calls:
                self._begin_call(delta)
            elif isinstance(delta, Finish):
                self._finish(delta)
        self._held += batch
        if self._must_wait():
            return []
        admitted, self._held = self._held, []
        return admitted

    def _must_wait(self) -> bool:
        if self._is_finished:
            return False
        return (self._must_call and not self._calls) or (self._is_single and bool(self._calls))

    def _begin_call(self, call: ToolCall) -> None:
        if self._permitted is not None and call.name not in self._permitted:
            raise ToolChoiceIgnored(
                f"The model server ignored tool_choice: it called {call.name!r}, though {self._choice} was asked for."
            )
        self._calls.add(call.key)
        if self._is_single and len(self._calls) > 1:
            raise ToolChoiceIgnored(
                "The model server ignored parallel_tool_calls: it made several calls, though it was asked for one."
            )

    def _finish(self, finish: Finish) -> None:
        """An answer that was cut short did not ignore anything."""
        self._is_finished = True
        if self._must_call and not self._calls and finish.reason in ("stop", "tool_calls"):
            raise ToolChoiceIgnored(
                f"The model server ignored tool_choice: it called no tool, though {self._choice} was asked for."
            )


def _permitted(prompt: Prompt) -> frozenset[str] | None:
    """The tools that may be called; None: the choice does not say."""
    match prompt.tool_choice:
        case Named(name):
            return frozenset({name})
        case "none":
            return frozenset()
        case "required":
            return frozenset(offer.name for offer in prompt.tools) if prompt.allowed is None else prompt.allowed
        case _:  # with "auto", a call beyond `allowed` is refused, and told to the model, by whoever runs the turns
            return None
