"""What the console gives as code: it fits, and it runs, whatever stands in it."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from playwright.async_api import Page, expect

from tests.clients.programs import HERE as CLIENTS
from tests.clients.programs import NODE, needs_curl, needs_modules
from tests.conftest import WAIT_S
from tests.test_console import ROOT, answer, ask, run_command, write
from tests.test_console import browser as browser  # fixtures
from tests.test_console import page as page
from tests.test_console import url as url

pytestmark = pytest.mark.asyncio(loop_scope="module")

HTTP_TASK = {
    "type": "object",
    "required": ["name", "taskReferenceName", "type", "inputParameters"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "taskReferenceName": {"type": "string", "minLength": 1, "pattern": "^[A-Za-z][A-Za-z0-9_]*$"},
        "type": {"const": "HTTP"},
        "inputParameters": {
            "type": "object",
            "required": ["http_request"],
            "properties": {
                "http_request": {
                    "type": "object",
                    "required": ["uri", "method"],
                    "additionalProperties": False,
                    "properties": {
                        "uri": {"type": "string", "pattern": "^https?://"},
                        "method": {"enum": ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"]},
                        "accept": {"type": "string"},
                        "contentType": {"enum": ["application/json", "text/plain", "text/html"]},
                        "headers": {"type": "object", "additionalProperties": {"type": "string"}},
                        "body": {"type": "object"},
                        "connectionTimeOut": {"type": "integer", "minimum": 0},
                        "readTimeOut": {"type": "integer", "minimum": 0},
                    },
                    "if": {"properties": {"method": {"enum": ["POST", "PUT", "PATCH"]}}},
                    "then": {"required": ["body"]},
                }
            },
        },
    },
}
"""Conductor's HTTP task: conductor-oss.org, Documentation, System Tasks, HTTP Task; the times are milliseconds."""


async def code(page: Page, language: str) -> str:
    await page.get_by_role("tab", name=language, exact=True).click()
    return await page.locator("#code pre").inner_text()


async def test_as_a_task_of_conductor_it_fits_the_schema_and_is_served_whole(page: Page) -> None:
    await write(page, json.dumps({"model": "scripted", "input": "say hello", "stream": True, "stream_options": {}}))
    written = json.loads(await code(page, "Conductor"))
    jsonschema_rs.validate(HTTP_TASK, written)
    request = written["inputParameters"]["http_request"]
    assert request["body"] == {"model": "scripted", "input": "say hello", "stream": False}
    generic = json.loads(await code(page, "HTTP task"))
    assert (generic["url"], generic["body"]) == (request["uri"], request["body"])
    async with httpx.AsyncClient() as client:
        made = await client.request(request["method"], request["uri"], json=request["body"], headers=request["headers"])
    assert made.json()["output"][0]["content"][0]["text"] == "hello"


PROGRAMS = {
    "Python": ((sys.executable, "-c"), ROOT),
    "JavaScript": ((str(NODE), "--input-type=module", "-e"), CLIENTS),
    "curl": (("sh", "-c"), ROOT),
}


@pytest.mark.parametrize(
    "language", ["Python", pytest.param("JavaScript", marks=needs_modules), pytest.param("curl", marks=needs_curl)]
)
async def test_as_a_program_it_runs(page: Page, language: str) -> None:
    text = 'say it\'s "so" $HOME `id` back\\slash \\n é 漢字 😀 ${x} %s !! {{y}}'
    await write(page, json.dumps({"model": "scripted", "input": text, "top_k": 3, "metadata": {"a": "b"}}))
    start, folder = PROGRAMS[language]
    program = await asyncio.create_subprocess_exec(
        *(*start, await code(page, language)),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await asyncio.wait_for(program.communicate(), WAIT_S)
    assert program.returncode == 0, complained.decode()
    heard = said.decode()
    if language == "curl":
        heard = json.loads(heard)["output"][0]["content"][0]["text"]
    assert heard.strip() == text.removeprefix("say ")


async def curl(page: Page, folder: Path) -> Any:
    """What the code for curl gives, run in a folder."""
    command, pipe = await code(page, "curl"), asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec("sh", "-c", command, cwd=folder, stdout=pipe)
    return json.loads((await asyncio.wait_for(program.communicate(), WAIT_S))[0])


@needs_curl
async def test_curl_asks_for_metadata_in_brackets(page: Page, tmp_path: Path) -> None:
    await ask(page, "say hello", metadata={"app": "in brackets"})
    await expect(answer(page)).to_contain_text("completed")
    await run_command(page, "GET /v1/responses")
    await page.get_by_label("metadata").fill("app=in brackets")
    assert len((await curl(page, tmp_path))["data"]) == 1


@needs_curl
async def test_curl_sends_a_file_whatever_its_name(page: Page, tmp_path: Path) -> None:
    file = tmp_path / 'a, "b"; type=c.txt'
    file.write_text("hello")
    await page.goto("/#/explorer/paths/POST%20%2Fv1%2Ffiles")
    await page.get_by_label("file").set_input_files(file)
    assert (await curl(page, tmp_path))["bytes"] == 5
