"""Hosted tools, one file each, loaded on use: declaration type -> where its class is."""

from importlib import import_module

from antiphon.core.ports import Tool

TOOLS = {"antiphon:scripted": "antiphon.tools.scripted:ScriptedTool"}


def build(kind: str) -> Tool:
    """The tool of a declaration type."""
    module, _, name = TOOLS[kind].partition(":")
    tool: Tool = getattr(import_module(module), name)()
    return tool
