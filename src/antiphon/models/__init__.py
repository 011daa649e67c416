"""Models, one file an adapter, loaded on use: kind in the settings -> where its class is."""

from importlib import import_module

from antiphon.config import Limits, ModelSettings
from antiphon.core.ports import Model

ADAPTERS = {
    "chat": "antiphon.models.chat:ChatModel",
    "local": "antiphon.models.local:LocalModel",
    "scripted": "antiphon.models.scripted:ScriptedModel",
}


def build(settings: ModelSettings, limits: Limits) -> Model:
    """The adapter of these settings."""
    kind = settings.__struct_config__.tag
    assert isinstance(kind, str)
    module, _, name = ADAPTERS[kind].partition(":")
    model: Model = getattr(import_module(module), name)(settings, limits)
    return model
