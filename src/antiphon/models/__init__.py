"""Models, one file an adapter, loaded on use: kind in the settings -> where its class is."""

from importlib import import_module

from antiphon.config import Limits, LocalModel, ModelSettings
from antiphon.core.ports import Model

ADAPTERS = {
    "chat": "antiphon.models.chat:ChatModel",
    "responses": "antiphon.models.responses:ResponsesModel",
    "local": "antiphon.models.local:LocalModel",
    "scripted": "antiphon.models.scripted:ScriptedModel",
}


def prepared(settings: ModelSettings) -> ModelSettings:
    """The same settings, with what they name at hand: downloads a local model. To be called before the loop runs."""
    if isinstance(settings, LocalModel):
        return import_module("antiphon.models.hub").prepared(settings)  # type: ignore[no-any-return] # loaded on use
    return settings


def build(settings: ModelSettings, limits: Limits) -> Model:
    """The adapter of these settings."""
    kind = settings.__struct_config__.tag
    assert isinstance(kind, str)
    module, _, name = ADAPTERS[kind].partition(":")
    model: Model = getattr(import_module(module), name)(settings, limits)
    return model
