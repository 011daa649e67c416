"""Keys in settings: where they are read from, what they must be, what of them may be shown. Knows no other setting."""

import re
from collections.abc import Mapping
from typing import TypeAlias

from antiphon.errors import SettingsError

Tree: TypeAlias = dict[str, object]
"""Settings as nested plain values: what TOML and JSON give, and what `merge` adds up."""

SECRET_NAMES = frozenset({"key", "secret"})
ADDRESSES = frozenset({"url", "database"})
ACCOUNT = re.compile(r"(?<=://)[^/?#]*@")
PASSWORD = re.compile(r"([?&](?:ssl)?password=)[^&]*", re.IGNORECASE)
"""As PostgreSQL takes it among the parameters of its address."""
HINT_SECRET_CHARS_MIN = 16
"""Below this a hint of seven characters would give away too much of a secret."""
SEALING_KEY_CHARS_MIN = 32


def filled(tree: Tree, environ: Mapping[str, str]) -> Tree:
    """Reads every `key_env` and `secret_env`, here and nowhere else, so that who uses a key finds it in `key`."""
    known = dict(tree)
    if isinstance(models := tree.get("models"), list):
        known["models"] = [_with_key(m, f"models[{i}]", environ) for i, m in enumerate(models)]
    if isinstance(server := tree.get("server"), dict):
        known["server"] = _with_key(server, "server", environ, "secret")
    if isinstance(tools := tree.get("tools"), dict):
        known["tools"] = _tools(tools, environ)
    for name in ("auth", "sealing"):
        table = tree.get(name)
        if isinstance(table, dict) and isinstance(table.get("keys"), list):
            keys = [_with_key(key, f"{name}.keys[{i}]", environ) for i, key in enumerate(table["keys"])]
            known[name] = table | {"keys": keys}
            for index, key in enumerate(keys):
                if not key.get("key"):
                    raise SettingsError(f"{name}.keys[{index}]: give it a key, or better key_env")
            if name == "sealing":
                _check_sealing(keys)
    return known


def _tools(tools: Tree, environ: Mapping[str, str]) -> Tree:
    known = {
        name: _with_key(table, f"tools.{name}", environ) if isinstance(table, dict) else table
        for name, table in tools.items()
    }
    if isinstance(plugins := tools.get("plugins"), dict):
        known["plugins"] = {name: _with_key(one, f"tools.plugins.{name}", environ) for name, one in plugins.items()}
    mcp = tools.get("mcp")
    if isinstance(mcp, dict) and isinstance(servers := mcp.get("servers"), list):
        named = [_with_key(one, f"tools.mcp.servers[{i}]", environ) for i, one in enumerate(servers)]
        known["mcp"] = mcp | {"servers": named}
    return known


def mask(value: object, name: str = "") -> object:
    """A value of the tree as it may be shown: secrets are reduced to a hint."""
    if isinstance(value, dict):
        return {key: mask(below, key) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask(element, name) for element in value]
    if isinstance(value, str) and name in SECRET_NAMES:
        return _hint(value)
    return without_password(value) if isinstance(value, str) and name in ADDRESSES else value


def without_password(url: str) -> str:
    """An address as it may be shown."""
    return PASSWORD.sub(r"\1***", ACCOUNT.sub("***@", url))


def _with_key(table: Tree, path: str, environ: Mapping[str, str], name: str = "key") -> Tree:
    variable = table.get(f"{name}_env")
    if not variable:
        return table
    if table.get(name):
        raise SettingsError(f"{path}: {name} and {name}_env are both set; keep one")
    if not environ.get(str(variable)):
        raise SettingsError(f"{path}.{name}_env: the environment variable {variable} is not set")
    return table | {name: environ[str(variable)]}


def _check_sealing(keys: list[Tree]) -> None:
    """A seal is as strong as its key, and an id names one key."""
    ids = set()
    for index, key in enumerate(keys):
        if len(str(key["key"])) < SEALING_KEY_CHARS_MIN:
            raise SettingsError(f"sealing.keys[{index}].key: too short; take the output of: openssl rand -base64 32")
        if key["id"] in ids:
            raise SettingsError(f"sealing.keys[{index}].id: {key['id']} is another key's already")
        ids.add(key["id"])


def _hint(secret: str) -> str:
    if len(secret) < HINT_SECRET_CHARS_MIN:
        return "***" if secret else ""
    return f"{secret[:3]}…{secret[-4:]}"
