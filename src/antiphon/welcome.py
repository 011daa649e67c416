"""What `antiphon serve` says before it serves. Knows the settings alone."""

from collections.abc import Iterable

from antiphon import __version__, checks
from antiphon.config import HttpUpstream, LocalModel, ModelSettings, Settings
from antiphon.keys import without_password
from antiphon.models import tiny


def lines(settings: Settings, *, needs_key: bool = False) -> Iterable[str]:
    """What is about to be served, and a line to try it with. Only what the settings tell: no model is asked."""
    server = settings.server
    url = checks.base_url(server) if server.port else f"http://{server.host}: a free port, named below"
    yield f"antiphon {__version__}"
    yield f"  address   {url}"
    yield f"  models    {', '.join(map(_described, settings.models)) or f'{tiny.NAME} (built in)'}"
    yield f"  database  {without_password(settings.storage.database)}"
    if not settings.models:
        yield f"  note      {tiny.DEMONSTRATION}"
    if server.workers > 1 or server.role != "all":
        yield f"  workers   {server.workers}, role {server.role}"
    if server.port and server.role != "worker" and settings.console.enabled:
        yield f"  console   {url.removesuffix('/v1')}/"
    if server.port and server.role != "worker":
        yield f"  try       {_curl(url, settings, needs_key=needs_key)}"


def _described(model: ModelSettings) -> str:
    if isinstance(model, HttpUpstream):
        shown = without_password(model.url)
        return f"{', '.join(model.models) or 'all'} of {shown}"
    if isinstance(model, LocalModel):
        return f"{model.name} ({model.path})" if model.name else model.path
    return model.name


def _curl(url: str, settings: Settings, *, needs_key: bool) -> str:
    key = ' -H "authorization: Bearer $ANTIPHON_API_KEY"' if needs_key else ""
    first = settings.models[0] if settings.models else None
    if isinstance(first, HttpUpstream):
        name = first.models[0] if first.models else ""
    elif isinstance(first, LocalModel):
        name = first.name
    else:
        name = first.name if first else tiny.NAME
    if not name:  # what it is called, the server says
        return f"curl {url}/models{key}"
    return (
        f"""curl {url}/responses{key} -H 'content-type: application/json' -d '{{"model":"{name}","input":"Hello!"}}'"""
    )
