"""A process that this run started, from its start to its end; ends nothing that it did not start."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import proctree

READY_S = 30.0
STOP_S = 10.0
POLL_S = 0.02
LOG_LINES = 20


class BenchError(Exception):
    """The benchmark cannot go on."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(port: int, path: str, timeout_s: float = 5) -> bytes:
    """The body of a page that must exist."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchError(f"GET {path} answered {answer.status}: {body[:200]!r}")
    return body


class Service:
    """A context: leaving it ends the process and whatever that has started."""

    def __init__(self, name: str, command: Sequence[str], *, port: int, folder: Path, log_folder: Path) -> None:
        self.name = name
        self.port = port
        self._log = log_folder / f"{name}-{port}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ANTIPHON_")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.pid = self._process.pid

    def wait_ready(self, path: str) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if epitaph := self.epitaph():
                raise BenchError(epitaph)
            try:
                get(self.port, path)
            except (OSError, http.client.HTTPException, BenchError):
                time.sleep(POLL_S)
            else:
                return
        raise BenchError(f"{self.name} does not answer GET {path} after {READY_S:.0f} s:\n{self._last_words()}")

    def epitaph(self) -> str:
        """How it ended; nothing while it runs."""
        if self._process.poll() is None:
            return ""
        return f"\n{self.name} ended with {self._process.returncode}:\n{self._last_words()}"

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def stop(self) -> None:
        family = proctree.tree(self.pid)
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_S)
        for process in filter(proctree.alive, family):
            os.kill(process.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
