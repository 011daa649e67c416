"""Hosted tools, one file each, loaded on use: what is set up for it in `[tools]` -> where its class is."""

from collections.abc import Iterator
from importlib import import_module

from antiphon.config import Tools
from antiphon.core.hosted import Tool
from antiphon.net.fetch import Fetcher

TOOLS = {
    "scripted": "antiphon.tools.scripted:ScriptedTool",
    "mcp": "antiphon.tools.mcp:McpTool",
    "plugins": "antiphon.tools.plugin:PluginTools",
    "web_search": "antiphon.tools.web_search:WebSearchTool",
}


def build(settings: Tools, fetch: Fetcher) -> Iterator[Tool]:
    """Every tool, also those that are not set up: they say so."""
    for name, place in TOOLS.items():
        module, _, kind = place.partition(":")
        tool: Tool = getattr(import_module(module), kind)(getattr(settings, name), fetch)
        yield tool
