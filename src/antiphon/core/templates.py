"""Templates: a request that names a prompt of the settings, filled in. Pure; knows no file.

A template's `{{name}}` stands for the variable of that name. What the request itself says counts more than what the
template says, and the template's messages come before the request's input.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import structs

from antiphon.errors import InvalidRequest, MissingParameter, NotFound
from antiphon.wire.items import InputText, Message, OutputText, Role
from antiphon.wire.request import CreateResponse
from antiphon.wire.response import PromptUse


class TemplateMessage(Protocol):
    @property
    def role(self) -> Role: ...
    @property
    def content(self) -> str: ...


class Template(Protocol):
    """A prompt of the settings; empty texts stand for none."""

    @property
    def id(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def instructions(self) -> str: ...
    @property
    def messages(self) -> Sequence[TemplateMessage]: ...


_VARIABLE = re.compile(r"\{\{\s*([\w.-]+)\s*\}\}")


def applied(request: CreateResponse, templates: Sequence[Template]) -> CreateResponse:
    """The request with its `prompt` carried out. Raises NotFound, or InvalidRequest about its variables."""
    use = request.prompt
    if use is None:
        return request
    template = _find(use, templates)
    values = {name: value.text if isinstance(value, InputText) else value for name, value in _variables(use).items()}
    _check_variables(template, values)
    messages = tuple(_message(message.role, _filled(message.content, values)) for message in template.messages)
    return structs.replace(
        request,
        model=request.model or template.model or None,
        instructions=request.instructions or _filled(template.instructions, values) or None,
        input=(*messages, *(request.input or ())),
        prompt=structs.replace(use, version=template.version),
    )


def _find(use: PromptUse, templates: Sequence[Template]) -> Template:
    """Without a version, the last one in the settings."""
    for template in reversed(templates):
        if template.id == use.id and use.version in (None, template.version):
            return template
    version = f" in version '{use.version[:64]}'" if use.version else ""
    raise NotFound(f"Prompt with id '{use.id[:128]}'{version} not found.", param="prompt", code="prompt_not_found")


def _variables(use: PromptUse) -> Mapping[str, str | InputText]:
    return use.variables or {}


def _check_variables(template: Template, values: Mapping[str, str]) -> None:
    texts = [template.instructions, *(message.content for message in template.messages)]
    wanted = dict.fromkeys(name for text in texts for name in _VARIABLE.findall(text))
    for name in wanted:
        if name not in values:
            raise MissingParameter(f"Missing prompt variable: '{name}'.", param=f"prompt.variables.{name}")
    for name in values:
        if name not in wanted:
            raise InvalidRequest(
                f"The prompt '{template.id}' has no variable '{name[:64]}'.", param=f"prompt.variables.{name}"
            )


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: values[match[1]], text)


def _message(role: Role, text: str) -> Message:
    part = OutputText(text=text) if role == "assistant" else InputText(text=text)
    return Message(role=role, content=(part,), status="completed")
