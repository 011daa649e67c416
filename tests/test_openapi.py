"""What /openapi.json says is what the server does: schemathesis makes requests by it, lawful ones and others.

Short and always the same in `make test`; `make fuzz` tries more.
"""

import asyncio
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import assume, given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from tests.conftest import WAIT_S, changed, serve
from tests.rawclient import Answer, scripted_in
from tests.strategies import trying

CHECKS = [
    not_a_server_error,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.status_code_conformance,
]
TYPE_CODES = frozenset({"invalid_type", "missing_required_parameter"})
"""With these the server says of a request what a schema could have said."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a thread of its own: schemathesis waits for its answers."""
    ready, done = threading.Event(), asyncio.Event()
    started: dict[str, Any] = {}

    async def run() -> None:
        keyless = changed(scripted_in(tmp_path_factory.mktemp("openapi")), auth={"manage_over_http": False})
        async with serve(keyless) as address:  # the first key that was tried would close the door behind it
            started.update(address=address.removesuffix("/v1"), loop=asyncio.get_running_loop())
            ready.set()
            await done.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    assert ready.wait(WAIT_S)
    yield started["address"]
    started["loop"].call_soon_threadsafe(done.set)
    thread.join(WAIT_S)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def document(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def operations(document: Any) -> dict[str, Any]:
    return {found.ok().label: found.ok() for found in document.get_all_operations()}


TAKING_SOMETHING = (
    *("POST /v1/responses/input_tokens", "POST /v1/responses/compact", "POST /openresponses/v1/responses/compact"),
    *("POST /v1/responses", "POST /openresponses/v1/responses", "GET /v1/responses", "GET /openresponses/v1/responses"),
    *("GET /v1/responses/{response_id}", "GET /openresponses/v1/responses/{response_id}"),
    *("GET /v1/responses/{response_id}/input_items", "GET /openresponses/v1/responses/{response_id}/input_items"),
    *("GET /v1/conversations", "POST /v1/conversations", "POST /v1/conversations/{conversation_id}"),
    *("POST /v1/conversations/{conversation_id}/items", "GET /v1/conversations/{conversation_id}/items"),
    "GET /v1/conversations/{conversation_id}/items/{item_id}",
    *("POST /v1/files", "GET /v1/files", "POST /v1/uploads"),
    *("POST /v1/uploads/{upload_id}/parts", "POST /v1/uploads/{upload_id}/complete"),
    *("GET /antiphon/overview", "GET /antiphon/responses/{response_id}/times"),
)
"""Operations with a body or a query, of which there are wrong ones."""
TAKING_NOTHING = (
    *("DELETE /v1/responses/{response_id}", "DELETE /openresponses/v1/responses/{response_id}"),
    *(
        "GET /v1/models",
        "GET /openresponses/v1/models",
        "GET /v1/models/{model}",
        "GET /openresponses/v1/models/{model}",
    ),
    *("GET /v1/conversations/{conversation_id}", "DELETE /v1/conversations/{conversation_id}"),
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}",
    *("GET /v1/files/{file_id}", "DELETE /v1/files/{file_id}", "GET /v1/files/{file_id}/content"),
    "POST /v1/uploads/{upload_id}/cancel",
    *("POST /v1/responses/{response_id}/cancel", "POST /openresponses/v1/responses/{response_id}/cancel"),
    *("GET /health", "GET /ready", "GET /antiphon/health"),
)


def test_every_operation_is_tried(document: Any) -> None:
    assert sorted(operations(document)) == sorted((*TAKING_SOMETHING, *TAKING_NOTHING))


@pytest.mark.parametrize("label", [*TAKING_SOMETHING, *TAKING_NOTHING])
def test_what_is_lawful_is_answered_as_described(document: Any, label: str) -> None:
    """And a refusal is not for what the description could have said."""
    operation = operations(document)[label]

    @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE), model=MODELS)
    @trying(40 if label == "POST /v1/responses" else 6)
    def check(case: Any, model: str) -> None:
        answer = answered(case, model)
        if answer.status >= 400 and not label.startswith("POST /openresponses/"):
            error = answer.error
            is_whole = "expected an integer, but got a number" in error["message"]  # of 1.0, say
            is_brought = re.match(r"(input|items)\[\d+\]\.tools\[", error["param"] or "")  # which are kept as they came
            assert is_whole or is_brought or error["code"] not in TYPE_CODES, answer

    check()


@pytest.mark.parametrize("label", TAKING_SOMETHING)
def test_what_is_not_lawful_is_answered_as_described(document: Any, label: str) -> None:
    """What violates the description is refused."""
    operation = operations(document)[label]

    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), model=MODELS)
    @trying(40 if label.startswith("POST") else 10)
    def check(case: Any, model: str) -> None:
        assume(not is_unsendable(case))
        assert answered(case, model, checks.negative_data_rejection).status != 500

    check()


def is_unsendable(case: Any) -> bool:
    """An empty list in a form is sent as nothing at all: then there is nothing wrong with it."""
    return "form-data" in str(case.media_type) and isinstance(case.body, dict) and [] in case.body.values()


MODELS = st.sampled_from(["scripted", "scripted", "nobody"])


def answered(case: Any, model: str, *more: Any) -> Answer:
    """The answer, which is as described. A body that names a model at all asks for this one."""
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = model
    response = case.call(timeout=WAIT_S)
    case.validate_response(response, checks=[*CHECKS, *more])
    headers = {name.lower(): values[0] for name, values in response.headers.items()}
    return Answer(response.status_code, headers, response.content)
