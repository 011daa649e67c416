"""What stands around a server: Python, disk, port, libgomp. What the server is made of checks itself."""

import ctypes
import errno
import http.client
import os
import shutil
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from antiphon.config import LocalModel, Server, Settings, Storage
from antiphon.core.ports import Check
from antiphon.errors import SettingsError

FREE_BYTES_MIN = 256 * 1024 * 1024
"""Room for some thousand long conversations; below it a server is about to refuse saving."""

PROBE_TIMEOUT_S = 2.0
"""A server on this host answers GET /health in milliseconds, or is stuck."""


def around(settings: Settings) -> list[Check]:
    """Every check of this file that these settings call for."""
    checks = [_check_python(), _check_disk(settings.storage), _check_port(settings.server)]
    if any(isinstance(model, LocalModel) for model in settings.models) or not settings.models:
        checks.append(_check_libgomp())
    return checks


def failed(name: str, detail: str, remedy: str = "") -> Check:
    return Check(name=name, ok=False, detail=detail, remedy=remedy)


def fault_of_port(server: Server) -> str:
    """Why the server could not listen there; empty when it could."""
    address = f"{server.host}:{server.port}"
    try:
        found = socket.getaddrinfo(server.host or None, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":  # as the server does: a port that only waits out its last connections is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except socket.gaierror:
        return f"{server.host} is no address of this host"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"{address} is in use; stop what listens there, or choose another with --port"
        if error.errno == errno.EACCES:
            return f"{address} may not be used by this user; ports below 1024 need the right to"
        return f"{address} cannot be used: {error.strerror}"
    return ""


def refuse_unshared(settings: Settings) -> None:
    """Raises SettingsError where processes shall share what they cannot."""
    server = settings.server
    if server.workers > 1 and os.name != "posix":
        raise SettingsError("server.workers: several workers share a socket, which this system does not do.")
    if settings.storage.database == ":memory:" and (server.workers > 1 or server.role != "all"):
        given = f"role {server.role}" if server.role != "all" else f"{server.workers} workers"
        raise SettingsError(f"{given}: processes share a database, and this one is in memory. Give --database FILE.")


def base_url(server: Server) -> str:
    """Where a client on this host reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}/v1"


def _check_python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check(name="python", ok=sys.version_info >= (3, 11), detail=version, remedy="install Python 3.11 or later")


def _check_disk(storage: Storage) -> Check:
    if storage.database == ":memory:" or (storage.is_postgres and not storage.files):
        return Check(name="disk", ok=True, detail="not used: nothing is kept on this machine")
    directory = Path(storage.files).expanduser() if storage.is_postgres else Path(storage.database).absolute().parent
    while not directory.exists():  # it is made on the first start
        directory = directory.parent
    if not os.access(directory, os.W_OK | os.X_OK):
        remedy = f"let this user write to {directory}, or choose another file with --database"
        return Check(name="disk", ok=False, detail=f"{directory} is not writable", remedy=remedy)
    free = shutil.disk_usage(directory).free
    detail = f"{directory}: writable, {free / 2**30:.1f} GiB free"
    return Check(name="disk", ok=free >= FREE_BYTES_MIN, detail=detail, remedy="free some space on that disk")


def _check_port(server: Server) -> Check:
    fault = fault_of_port(server) if server.port else ""
    if fault and _answers_health(server):
        return Check(name="port", ok=True, detail=f"a server is up at {base_url(server)}")
    return Check(name="port", ok=not fault, detail=fault or f"{server.port} is free", remedy="see --host and --port")


def _answers_health(server: Server) -> bool:
    """Whether what holds the port is a server like this one."""
    connection = http.client.HTTPConnection(urlsplit(base_url(server)).netloc, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    else:
        return answer.status == http.client.OK
    finally:
        connection.close()


def _check_libgomp() -> Check:
    if sys.platform != "linux":
        return Check(name="libgomp", ok=True, detail="not needed on this system")
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError as error:
        return Check(name="libgomp", ok=False, detail=str(error), remedy="sudo apt-get install libgomp1")
    return Check(name="libgomp", ok=True, detail="libgomp.so.1 loads (llama.cpp needs it)")
