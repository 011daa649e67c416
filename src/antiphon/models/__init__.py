"""Models, one file an adapter, loaded on use: kind in the settings -> where its class is."""

from importlib import import_module
from typing import TYPE_CHECKING

from msgspec import structs

from antiphon.config import Limits, LocalModel, ModelSettings, Settings
from antiphon.core.ports import Model

if TYPE_CHECKING:
    from antiphon.models.shared import SharedEngine

ADAPTERS = {
    "chat": "antiphon.models.chat:ChatModel",
    "responses": "antiphon.models.responses:ResponsesModel",
    "local": "antiphon.models.local:LocalModel",
    "scripted": "antiphon.models.scripted:ScriptedModel",
}


def chosen(settings: Settings) -> tuple[ModelSettings, ...]:
    """Those of the settings, or the one that is built in."""
    return settings.models or (import_module("antiphon.models.tiny").settings(),)


def prepared(settings: Settings) -> Settings:
    """The same settings, with the models that are chosen, and what they name at hand: downloads local ones. To be
    called before the loop runs."""
    return structs.replace(settings, models=tuple(map(_prepared, chosen(settings))))


def _prepared(settings: ModelSettings) -> ModelSettings:
    if isinstance(settings, LocalModel):
        return import_module("antiphon.models.hub").prepared(settings)  # type: ignore[no-any-return] # loaded on use
    return settings


def build(settings: ModelSettings, limits: Limits, shared: "SharedEngine | None" = None) -> Model:
    """The adapter of these settings. `shared`: the engine of a local model, where another process runs it."""
    kind = settings.__struct_config__.tag
    assert isinstance(kind, str)
    module, _, name = ADAPTERS[kind].partition(":")
    given = (settings, limits) if shared is None else (settings, limits, shared)
    model: Model = getattr(import_module(module), name)(*given)
    return model
