"""The command line: words to settings, a failure to one clear line and an exit code. Refuses to know how to serve.

Exit codes: 0 done · 1 it failed · 2 the command or the settings are wrong · 130 interrupted.

Written with argparse and plain text because `serve` runs in this very process: typer (with pydantic) and rich would
add 16 MB to it and a third of a second to its start. What is heavy is imported by the command that needs it.
"""

import argparse
import os
import re
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from antiphon import __version__, origins, pruning
from antiphon.config import Settings
from antiphon.errors import AntiphonError, SettingsError

if TYPE_CHECKING:
    from antiphon.core.ports import ApiKey

T = TypeVar("T")

INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""

PROJECT = re.compile(r"[A-Za-z0-9._-]{1,64}")

URL = "http://127.0.0.1:8000/v1"
KEY_VARIABLE = "ANTIPHON_API_KEY"

SERVE_EXAMPLES = """\
examples:
  antiphon serve                                          the built-in demonstration model
  antiphon serve --model ~/models/qwen3-8b-q4.gguf        a GGUF file, in a llama.cpp worker
  antiphon serve --model Qwen/Qwen3-0.6B-GGUF             the same, downloaded from Hugging Face
  antiphon serve --upstream http://127.0.0.1:8080/v1      everything that a chat-completions server lists
  antiphon serve --upstream https://api.openai.com/v1 --upstream-key-env OPENAI_API_KEY

--model, --upstream and --scripted may be mixed; together they replace the models of the settings file.
Any setting can also come from the environment, for example ANTIPHON_LIMITS__TURNS_MAX=8. See `antiphon check`.
"""
KEYS_EXAMPLES = """\
examples:
  antiphon keys create --project shop --name laptop
  antiphon keys list
  antiphon keys revoke key_0123456789abcdef

As soon as one key exists, every request needs one, and a project sees only its own responses.
"""
MIGRATE_EXAMPLES = """\
examples:
  antiphon migrate --database postgresql://antiphon@db.internal/antiphon
  antiphon migrate --database postgresql://antiphon@db.internal/antiphon --from-sqlite antiphon.db

`antiphon serve` does the first by itself when it starts. Servers of the version before may go on meanwhile. An import
that was interrupted has imported nothing: run it again.
"""
RESPONSES_EXAMPLES = """\
examples:
  antiphon responses create "Write a haiku about rain."
  git diff | antiphon responses create - --instructions "Review this change."
  antiphon responses create "And in German?" --previous resp_0123456789abcdef

The answer goes to stdout; reasoning, the response's id and its usage go to stderr.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. A mistake of the user never shows a traceback."""
    try:
        arguments = _parser().parse_args(words)
        code: int = arguments.command(arguments)
        sys.stdout.flush()  # while a full disk or a reader that left can still be told
    except KeyboardInterrupt:
        return INTERRUPTED
    except SettingsError as error:
        return _fail(error.message, code=2)
    except AntiphonError as error:
        return _fail(error.message)
    except OSError as error:
        _drop_output()
        return 1 if isinstance(error, BrokenPipeError) else _fail(str(error))  # `| head` has seen enough
    return code


def _drop_output() -> None:
    """What stdout could not take, the exit of Python would try to write again, and complain."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int = 1) -> int:
    _note(f"antiphon: {message}")
    return code


def _say(line: str) -> None:
    """The answer to the command."""
    sys.stdout.write(f"{line}\n")


def _note(line: str) -> None:
    """What goes beside the answer, and stays out of a pipe."""
    sys.stderr.write(f"{line}\n")


def _run(work: Coroutine[Any, Any, T]) -> T:
    import asyncio

    return asyncio.run(work)


# The words.


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="antiphon", description="A self-hosted server for the Responses API, in front of any model."
    )
    parser.add_argument("--version", action="version", version=f"antiphon {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    shared = [_settings_flags(), _model_flags()]
    _command(commands, "serve", _serve, "Serve the API.", SERVE_EXAMPLES, shared)
    check = _command(commands, "check", _check, "Show the effective settings, secrets masked.", "", shared)
    check.add_argument("--json", action="store_true", help="as JSON instead of TOML")
    _command(commands, "doctor", _doctor, "Is everything that is configured reachable and working?", "", shared)
    migrate = _command(commands, "migrate", _migrate, "Bring the database up to date.", MIGRATE_EXAMPLES)
    _config_flags(migrate)
    migrate.add_argument("--from-sqlite", metavar="FILE", help="import this SQLite database into an empty PostgreSQL")
    _keys_words(_command(commands, "keys", None, "Create, list and revoke API keys.", KEYS_EXAMPLES))
    _responses_words(_command(commands, "responses", None, "Ask a server; delete what is old.", RESPONSES_EXAMPLES))
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: object,
    about: str,
    examples: str = "",
    parents: Sequence[argparse.ArgumentParser] = (),
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about,
        epilog=examples,
        parents=list(parents),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if run is not None:
        parser.set_defaults(command=run)
    return parser


def _settings_flags() -> argparse.ArgumentParser:
    """A flag's `dest` is the path of the setting it sets."""
    flags = argparse.ArgumentParser(add_help=False)
    group = flags.add_argument_group("settings")
    _config_flags(group)
    group.add_argument("--host", dest="server.host", metavar="ADDRESS", help="where to listen (default 127.0.0.1)")
    group.add_argument("--port", dest="server.port", type=int, metavar="N", help="the port (default 8000; 0: any free)")
    group.add_argument(
        "--workers", dest="server.workers", type=int, metavar="N", help="processes that serve (default 1)"
    )
    group.add_argument(
        "--role",
        dest="server.role",
        choices=("all", "api", "worker"),
        help="api: answer requests, and leave background responses to others; worker: make those (default all)",
    )
    group.add_argument(
        "--open-without-keys",
        dest="server.open_without_keys",
        action="store_true",
        default=None,
        help="listen on a non-loopback address although no key exists: everyone who reaches it may use it",
    )
    group.add_argument(
        "--strict",
        dest="server.strict",
        action="store_true",
        default=None,
        help="refuse unknown parameters instead of naming them in a header",
    )
    group.add_argument(
        "--log-format", dest="server.log_format", choices=("auto", "json", "console"), help="auto: by the terminal"
    )
    group.add_argument(
        "--log-level",
        dest="server.log_level",
        choices=("debug", "info", "warning", "error"),
        help="what is logged (default info)",
    )
    return flags


def _config_flags(group: "argparse._ArgumentGroup | argparse.ArgumentParser") -> None:
    group.add_argument(
        "--config", metavar="FILE", help=f"the settings file (default: $ANTIPHON_CONFIG, else ./{origins.FILE_NAME})"
    )
    group.add_argument(
        "--database",
        dest="storage.database",
        metavar="FILE_OR_URL",
        help="the SQLite file, or postgresql://user@host/name; :memory: keeps nothing",
    )


def _model_flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    group = flags.add_argument_group("models (repeatable; none: the built-in demonstration model)")
    group.add_argument(
        "--model", action="append", default=[], metavar="PATH_OR_ID", help="a .gguf file, or a Hugging Face id"
    )
    group.add_argument(
        "--upstream", action="append", default=[], metavar="URL", help="a chat-completions server, with its /v1"
    )
    group.add_argument(
        "--upstream-key-env",
        action="append",
        default=[],
        metavar="NAME",
        help="the variable that holds the upstream's key: one for all, or one for each --upstream in order",
    )
    group.add_argument("--scripted", action="store_true", help="the deterministic model and tool for tests")
    return flags


def _keys_words(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = _command(commands, "create", _keys_create, "Create a key. It is shown once.")
    create.add_argument("--project", required=True, help="what the key may see: the responses of this project")
    create.add_argument("--name", default="", help="a note for the list")
    revoke = _command(commands, "revoke", _keys_revoke, "Revoke a key, at once and for good.")
    revoke.add_argument("id", metavar="ID", help="the id that `antiphon keys list` shows")
    for command in (create, _command(commands, "list", _keys_list, "List the keys, without their secrets."), revoke):
        _config_flags(command)


def _responses_words(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    about = "Create a response and stream it to the terminal."
    create = _command(commands, "create", _responses_create, about, RESPONSES_EXAMPLES)
    create.add_argument("input", metavar="INPUT", help="what to say to the model; - reads it from stdin")
    create.add_argument("--model", metavar="NAME", help="default: the first that the server lists")
    create.add_argument("--instructions", metavar="TEXT", help="the system message")
    create.add_argument("--previous", metavar="ID", help="the response to go on from")
    create.add_argument("--url", default=URL, help="base address of the server (default %(default)s)")
    create.add_argument(
        "--key-env", metavar="NAME", help=f"the variable that holds the key (default {KEY_VARIABLE}, if set)"
    )
    create.add_argument("--no-stream", action="store_true", help="wait for the whole response")
    create.add_argument("--json", action="store_true", help="print the events, or the response, as JSON")
    prune = _command(commands, "prune", _responses_prune, "Delete what is old from the database.", pruning.EXAMPLES)
    pruning.words(prune)
    _config_flags(prune)


def _settings(arguments: argparse.Namespace) -> Settings:
    flags = {path: value for path, value in vars(arguments).items() if "." in path and value is not None}
    if models := _models(arguments):
        flags["models"] = models
    if getattr(arguments, "scripted", False):
        flags["tools.scripted.enabled"] = True
    return origins.load(arguments.config, os.environ, flags)


def _models(arguments: argparse.Namespace) -> list[dict[str, str]]:
    if "upstream" not in arguments:
        return []
    urls, variables = arguments.upstream, arguments.upstream_key_env
    if len(variables) not in (0, 1, len(urls)) or (variables and not urls):
        raise SettingsError(
            f"{len(variables)} --upstream-key-env for {len(urls)} --upstream: give one, or one for each"
        )
    keys = variables * len(urls) if len(variables) == 1 else variables or [""] * len(urls)
    chats = [{"kind": "chat", "url": url, "key_env": key} for url, key in zip(urls, keys, strict=True)]
    locals_ = [{"kind": "local", "path": path} for path in arguments.model]
    return locals_ + chats + ([{"kind": "scripted"}] if arguments.scripted else [])


# serve


def _serve(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)

    from antiphon import checks, welcome

    checks.refuse_unshared(settings)
    if settings.server.port and (fault := checks.fault_of_port(settings.server)):
        return _fail(fault)
    for line in welcome.lines(settings, needs_key=_needs_key(settings)):
        _note(line)
    if settings.server.workers > 1:
        from antiphon import supervisor

        return supervisor.serve(settings)
    from antiphon import app  # which takes half a second

    return app.serve(settings)


def _needs_key(settings: Settings) -> bool:
    if settings.auth.required or settings.auth.keys:
        return True
    return settings.storage.database != ":memory:" and bool(_run(_stored_keys(settings)))


# check


def _check(arguments: argparse.Namespace) -> int:
    import json

    settings = _settings(arguments)
    shown = origins.masked(settings)
    if arguments.json:
        _say(json.dumps(shown, indent=2, ensure_ascii=False))
        return 0
    file = origins.settings_file(arguments.config, os.environ)
    _say(f"# settings file: {file or 'none'}")
    _say(origins.as_toml(shown).rstrip("\n"))
    return 0


# doctor


def _doctor(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)

    from antiphon import app, checks

    results = checks.around(settings)
    try:
        results += _run(app.doctor(settings))
    except AntiphonError as error:  # what cannot even be opened or built ends that, but not the table
        results.append(checks.failed("server", error.message))
    width = max(len(check.name) for check in results)
    for check in results:
        _say(f"{'ok  ' if check.ok else 'FAIL'}  {check.name.ljust(width)}  {check.detail}")
        if not check.ok and check.remedy:
            _say(f"      {' ' * width}  -> {check.remedy}")
    failed = sum(not check.ok for check in results)
    _say(f"\n{failed} of {len(results)} need attention." if failed else "\nAll is well.")
    return 1 if failed else 0


# migrate


def _migrate(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)

    from antiphon import migration

    for line in migration.run(settings.storage, arguments.from_sqlite):
        _say(line)
    return 0


# keys


def _keys_create(arguments: argparse.Namespace) -> int:
    settings = _settings_with_file(arguments)
    shown = _run(_add_key(settings, _project(arguments.project), arguments.name))
    _say(shown)
    _note("This is the only time the key is shown. From now on every request needs a key.")
    return 0


async def _add_key(settings: Settings, project: str, name: str) -> str:
    import secrets
    import time

    from antiphon import app, crypto, stores
    from antiphon.core.ports import ApiKey

    key = crypto.new_key()
    stored = ApiKey(
        id=f"key_{secrets.token_hex(8)}",
        project=project,
        name=name,
        hint=crypto.hint(key),
        digest=crypto.digest(key, app.secret(settings)),
        created_at=int(time.time()),
    )
    async with stores.open_store(settings) as store:
        await store.add_key(stored)
    return key


def _keys_list(arguments: argparse.Namespace) -> int:
    import time

    head = ("ID", "PROJECT", "NAME", "KEY", "CREATED")
    rows = [head] + [
        (key.id, key.project, key.name, key.hint, time.strftime("%Y-%m-%d %H:%M", time.localtime(key.created_at)))
        for key in _run(_stored_keys(_settings_with_file(arguments)))
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        _say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


async def _stored_keys(settings: Settings) -> "Sequence[ApiKey]":
    from antiphon import stores

    async with stores.open_store(settings) as store:
        return await store.keys()


def _keys_revoke(arguments: argparse.Namespace) -> int:
    if _run(_revoke_key(_settings_with_file(arguments), arguments.id)):
        _say(f"{arguments.id} is revoked")
        return 0
    return _fail(f"there is no key {arguments.id!r}; `antiphon keys list` shows all")


async def _revoke_key(settings: Settings, key_id: str) -> bool:
    from antiphon import stores

    async with stores.open_store(settings) as store:
        return await store.revoke_key(key_id)


def _settings_with_file(arguments: argparse.Namespace) -> Settings:
    settings = _settings(arguments)
    if settings.storage.database == ":memory:":
        raise SettingsError("the settings keep the database in memory: give --database FILE")
    return settings


def _project(text: str) -> str:
    if not PROJECT.fullmatch(text):
        raise SettingsError(f"{text!r} is no name for a project: letters, digits, '.', '_' and '-', up to 64")
    return text


# responses


def _responses_create(arguments: argparse.Namespace) -> int:
    from antiphon import client

    question = client.Question(
        input=sys.stdin.buffer.read().decode(errors="replace") if arguments.input == "-" else arguments.input,
        model=arguments.model,
        instructions=arguments.instructions,
        previous_response_id=arguments.previous,
        stream=not arguments.no_stream,
    )
    if arguments.key_env and not os.environ.get(arguments.key_env):
        raise SettingsError(f"--key-env: the environment variable {arguments.key_env} is not set")
    key = os.environ.get(arguments.key_env or KEY_VARIABLE)
    return client.create(arguments.url, key, question, as_json=arguments.json)


def _responses_prune(arguments: argparse.Namespace) -> int:
    for line in pruning.run(_settings_with_file(arguments), arguments):
        _say(line)
    return 0
