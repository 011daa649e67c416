"""The official SDK for Node, and the AI SDK: each check of their scripts is a test of its own."""

import json
import re
from typing import TypeAlias

import pytest
import pytest_asyncio

from tests.clients.programs import HERE, needs_modules, ran
from tests.rawserver import RawServer, answers

SCRIPTS = ("openai_node.mjs", "ai_sdk.mjs")
CHECK = re.compile(r'^check\("([^"]+)"', re.MULTILINE)
CHECKS = [(script, name) for script in SCRIPTS for name in CHECK.findall((HERE / script).read_text(encoding="utf-8"))]

Outcomes: TypeAlias = dict[tuple[str, str], str | None]
"""What each check of each script found wrong."""

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs_modules]


async def outcomes_of(script: str, url: str) -> Outcomes:
    """One process a script: most of its time goes into loading the client."""
    ended = await ran(HERE / script, url, cwd=HERE, environment={})
    assert ended.code == 0, ended.complained
    lines = [json.loads(line) for line in ended.said.splitlines()]
    return {(script, line["check"]): line["error"] for line in lines}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outcomes(url: str) -> Outcomes:
    found = [await outcomes_of(script, url) for script in SCRIPTS]
    return {check: error for each in found for check, error in each.items()}


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
