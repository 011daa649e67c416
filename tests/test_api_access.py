"""Who may ask, how, and for what: hosts, origins, keys and projects, content types, paths and methods."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from antiphon import app, crypto
from antiphon.config import Settings, StaticKey
from antiphon.core.ports import ApiKey
from antiphon.errors import SettingsError
from antiphon.stores import open_store
from tests.conftest import changed, serve
from tests.rawclient import Answer, ask, create, exchange, request, scripted_in, streaming

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALPHA, BETA = "sk-alpha-0123456789abcdef", "sk-beta-0123456789abcdef"
USER = {"role": "user", "content": "say hello"}
NO_KEY = (401, None, None)
WRONG_KEY = (401, "invalid_api_key", None)
FORBIDDEN = (403, None, None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A server without keys."""
    async with serve(scripted_in(tmp_path_factory.mktemp("open"))) as address:
        yield address


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A server with a key for each of two projects."""
    keys = (StaticKey(project="alpha", key=ALPHA), StaticKey(project="beta", key=BETA))
    async with serve(changed(scripted_in(tmp_path_factory.mktemp("keyed")), auth={"keys": keys})) as address:
        yield address


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def models(url: str, headers: Any = None) -> Answer:
    return await ask(url, "GET", "/v1/models", headers=headers)


# -- without keys: this machine only


@pytest.mark.parametrize("host", ["localhost", "LocalHost:80", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000"])
async def test_without_keys_this_machine_is_served_under_its_names(url: str, host: str) -> None:
    assert (await models(url, {"host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "", "["),
        *("a@localhost", "evil.example:localhost", "[::1]evil.example", "localhost,evil.example", "\xff", "h" * 5000),
    ],
)
async def test_without_keys_another_host_name_is_refused(url: str, host: str) -> None:
    assert (await models(url, {"host": host})).refusal == FORBIDDEN
    assert (await create(url, {"host": host})).refusal == FORBIDDEN


@pytest.mark.parametrize("origin", ["http://localhost", "http://localhost:3000", "https://127.0.0.1", "http://[::1]:1"])
async def test_without_keys_a_page_of_this_machine_is_served(url: str, origin: str) -> None:
    assert (await models(url, {"origin": origin})).status == 200


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "https://localhost.evil.example", "http://evil.example:80", "null", "file://"),
        *("evil", "http://[", "http://[::1", "http://", "chrome-extension://abc", "\xff", "http://" + "o" * 5000),
    ],
)
async def test_without_keys_a_foreign_page_is_refused(url: str, origin: str) -> None:
    assert (await models(url, {"origin": origin})).refusal == FORBIDDEN
    assert (await create(url, {"origin": origin, "content-type": None})).refusal == FORBIDDEN


async def test_health_and_the_description_are_open_to_all(url: str, keyed: str) -> None:
    foreign = {"host": "evil.example", "origin": "http://evil.example"}
    for address in (url, keyed):
        for path in ("/health", "/openapi.json"):
            assert (await ask(address, "GET", path, headers=foreign)).status == 200
    assert (await ask(keyed, "GET", "/health")).value["status"] == "ok"


# -- cross-origin


def cors(answer: Answer) -> set[str]:
    return {name for name in answer.headers if name.startswith("access-control-")}


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://evil.example"])
async def test_no_cors_header_is_sent_unless_configured(url: str, keyed: str, origin: str) -> None:
    answers = [
        await models(url, {"origin": origin}),
        await create(url, {"origin": origin}),
        await models(keyed, {"origin": origin, **bearer(ALPHA)}),
        await ask(url, "OPTIONS", "/v1/responses", headers={"origin": origin, **PREFLIGHT}),
    ]

    assert [cors(answer) for answer in answers] == [set()] * 4


async def test_a_configured_origin_may_call(scripted: Settings) -> None:
    origin = {"origin": "https://app.example"}
    async with serve(changed(scripted, cors={"origins": ("https://app.example",)})) as url:
        preflight = await ask(url, "OPTIONS", "/v1/responses", headers=origin | PREFLIGHT)
        served = await create(url, origin)
        refused = await create(url, origin, temperature=3)
        foreign = await create(url, {"origin": "https://evil.example"})
        disallowed = await ask(url, "OPTIONS", "/v1/responses", headers={"origin": "https://evil.example"} | PREFLIGHT)

    assert preflight.status in {200, 204}
    for answer in (preflight, served, refused):
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-request-id" in served.headers["access-control-expose-headers"]
    assert (served.status, refused.status) == (200, 400)
    assert foreign.refusal == FORBIDDEN
    assert "access-control-allow-origin" not in foreign.headers
    assert "access-control-allow-origin" not in disallowed.headers


async def test_a_preflight_is_answered_like_everything_else(scripted: Settings) -> None:
    async with serve(changed(scripted, cors={"origins": ("https://app.example",)})) as url:
        allowed = await ask(url, "OPTIONS", "/v1/models", headers={"origin": "https://app.example"} | PREFLIGHT)
        foreign = await ask(url, "OPTIONS", "/v1/models", headers={"origin": "https://evil.example"} | PREFLIGHT)

    assert allowed.headers["x-request-id"].startswith("req_")
    assert foreign.refusal[0] in {400, 403}


async def test_a_star_lets_any_page_call(scripted: Settings) -> None:
    async with serve(changed(scripted, cors={"origins": ("*",)})) as url:
        answer = await models(url, {"origin": "https://any.example"})

    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")


# -- keys


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic c2s6", ALPHA, f"Token {ALPHA}"])
async def test_a_request_without_a_key_is_told_to_bring_one(keyed: str, authorization: str | None) -> None:
    for answer in (await models(keyed, {"authorization": authorization}), await create(keyed)):
        assert answer.refusal == NO_KEY
        assert answer.error["type"] == "invalid_request_error"
        assert answer.error["message"].startswith("You didn't provide an API key. ")


@pytest.mark.parametrize(
    "key", ["sk", ALPHA[:-1], ALPHA + "x", ALPHA.upper(), f"{ALPHA} {BETA}", "\xff" * 30, "k" * 5000]
)
async def test_a_wrong_key_is_not_repeated(keyed: str, key: str) -> None:
    answer = await models(keyed, bearer(key))

    assert answer.refusal == WRONG_KEY
    assert answer.error["message"].startswith("Incorrect API key provided: ")
    assert key not in answer.error["message"]


@pytest.mark.parametrize("authorization", [f"Bearer {ALPHA}", f"bearer {ALPHA}", f"BEARER   {ALPHA} "])
async def test_a_right_key_is_let_in(keyed: str, authorization: str) -> None:
    assert (await models(keyed, {"authorization": authorization})).status == 200


async def test_with_keys_any_host_and_origin_is_served(keyed: str) -> None:
    foreign = {"host": "api.example", "origin": "https://app.example"}

    assert (await models(keyed, foreign | bearer(ALPHA))).status == 200
    assert (await models(keyed, foreign)).refusal == NO_KEY


async def test_required_keys_that_do_not_exist_let_nobody_in(scripted: Settings) -> None:
    async with serve(changed(scripted, auth={"required": True})) as url:
        assert (await models(url)).refusal == NO_KEY
        assert (await models(url, bearer(ALPHA))).refusal == WRONG_KEY


def stored(key: str, settings: Settings, project: str = "alpha") -> ApiKey:
    digest = crypto.digest(key, app.secret(settings))
    return ApiKey(id=f"key_{key[3:8]}", project=project, name="", hint="", digest=digest, created_at=0)


async def test_keys_made_and_revoked_while_the_server_runs_count_at_once(scripted: Settings) -> None:
    async with serve(scripted) as url, open_store(scripted) as elsewhere:
        assert (await models(url)).status == 200
        await elsewhere.add_key(stored(ALPHA, scripted))
        await elsewhere.add_key(stored(BETA, scripted))
        assert (await models(url)).refusal == NO_KEY
        assert (await models(url, bearer(ALPHA))).status == 200
        await elsewhere.revoke_key("key_alpha")
        assert (await models(url, bearer(ALPHA))).refusal == WRONG_KEY
        assert (await models(url, bearer(BETA))).status == 200


async def test_what_was_made_without_keys_belongs_to_the_default_project(scripted: Settings) -> None:
    async with serve(scripted) as url, open_store(scripted) as elsewhere:
        response = (await create(url)).value
        await elsewhere.add_key(stored(ALPHA, scripted))
        await elsewhere.add_key(stored(BETA, scripted, "default"))
        path = f"/v1/responses/{response['id']}"

        assert (await ask(url, "GET", path, headers=bearer(ALPHA))).refusal[0] == 404
        assert (await ask(url, "GET", path, headers=bearer(BETA))).value == response


# -- projects


async def test_a_response_of_another_project_does_not_exist(keyed: str) -> None:
    response = (await create(keyed, bearer(ALPHA))).value
    path = f"/v1/responses/{response['id']}"
    for method, below in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
        answer = await ask(keyed, method, path + below, headers=bearer(BETA))
        assert answer.refusal == (404, None, None)
        assert answer.error["message"] == f"Response with id '{response['id']}' not found."
    continued = await create(keyed, bearer(BETA), previous_response_id=response["id"])

    assert continued.refusal == (400, "previous_response_not_found", "previous_response_id")
    assert (await ask(keyed, "GET", path, headers=bearer(ALPHA))).value == response


async def test_an_item_of_another_project_does_not_exist(keyed: str) -> None:
    response = (await create(keyed, bearer(ALPHA))).value
    items = (await ask(keyed, "GET", f"/v1/responses/{response['id']}/input_items", headers=bearer(ALPHA))).value
    for item_id in (response["output"][0]["id"], items["data"][0]["id"]):
        reference = [{"type": "item_reference", "id": item_id}, USER]
        assert (await create(keyed, bearer(BETA), input=reference)).refusal == (404, None, "input")
        assert (await create(keyed, bearer(ALPHA), input=reference)).status == 200


async def test_a_running_response_of_another_project_does_not_exist(keyed: str) -> None:
    async with streaming(keyed, bearer(ALPHA), input="stall") as one:
        created = (await (await one.head()).frames_until("response.created"))[0].data["response"]
        path = f"/v1/responses/{created['id']}"
        for method, below in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
            assert (await ask(keyed, method, path + below, headers=bearer(BETA))).refusal == (404, None, None)
        continued = await create(keyed, bearer(BETA), previous_response_id=created["id"])
        mine = (await ask(keyed, "GET", path, headers=bearer(ALPHA))).value

    assert continued.refusal[1] == "previous_response_not_found"
    assert mine["status"] == "in_progress"


async def test_two_projects_may_use_the_same_item_id(keyed: str) -> None:
    for key, word in ((ALPHA, "one"), (BETA, "two")):
        await create(keyed, bearer(key), input=[{"role": "user", "id": "msg_shared", "content": f"say {word}"}])
    answer = await create(keyed, bearer(ALPHA), input=[{"type": "item_reference", "id": "msg_shared"}])

    assert answer.value["output"][0]["content"][0]["text"] == "one"


async def test_models_are_shared(keyed: str) -> None:
    assert (await models(keyed, bearer(ALPHA))).value == (await models(keyed, bearer(BETA))).value


# -- the address


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
async def test_an_open_address_without_keys_is_refused(scripted: Settings, host: str) -> None:
    with pytest.raises(SettingsError, match="antiphon keys create"):
        async with app.running(changed(scripted, server={"host": host})):
            pass


@pytest.mark.parametrize(
    "guard", [{"auth": {"keys": (StaticKey(key=ALPHA),)}}, {"auth": {"required": True}}, {"stored": {}}]
)
async def test_an_open_address_with_keys_is_served_to_who_has_one(scripted: Settings, guard: dict[str, Any]) -> None:
    if guard.pop("stored", None) is not None:
        async with open_store(scripted) as elsewhere:
            await elsewhere.add_key(stored(ALPHA, scripted))
    async with serve(changed(scripted, server={"host": "0.0.0.0"}, **guard)) as url:
        assert (await models(url)).refusal == NO_KEY


async def test_an_open_address_stays_shut_when_its_last_key_is_revoked(scripted: Settings) -> None:
    async with open_store(scripted) as elsewhere:
        await elsewhere.add_key(stored(ALPHA, scripted))
        async with serve(changed(scripted, server={"host": "0.0.0.0"})) as url:
            await elsewhere.revoke_key("key_alpha")

            assert (await models(url, {"host": "localhost"})).refusal[0] in {401, 403}
            assert (await models(url, {"host": "localhost", **bearer(ALPHA)})).refusal[0] in {401, 403}


async def test_an_address_opened_on_purpose_serves_any_host_but_no_foreign_page(scripted: Settings) -> None:
    async with serve(changed(scripted, server={"host": "0.0.0.0", "open_without_keys": True})) as url:
        assert (await models(url, {"host": "box.example"})).status == 200
        assert (await models(url, {"host": "box.example", "origin": "http://box.example:8000"})).status == 200
        for origin in ("http://evil.example", "null"):
            assert (await models(url, {"host": "box.example", "origin": origin})).refusal == FORBIDDEN


# -- content types


@pytest.mark.parametrize(
    "kind",
    [None, "application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=UTF-8"],
)
async def test_a_body_that_says_it_is_json_or_nothing_is_read(url: str, kind: str | None) -> None:
    assert (await create(url, {"content-type": kind})).status == 200


@pytest.mark.parametrize(
    "kind",
    [
        *(
            "text/plain",
            "text/plain; charset=utf-8",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=a",
        ),
        *("text/html", "application/octet-stream", "application/jsonx", "application", "json", "\xff", "x" * 5000),
    ],
)
async def test_a_body_that_says_it_is_something_else_is_refused(url: str, kind: str) -> None:
    assert (await create(url, {"content-type": kind})).refusal == (415, None, None)


async def test_after_a_refusal_the_connection_serves_on(url: str, keyed: str) -> None:
    for address, headers, status in ((url, {"content-type": "text/plain"}, 415), (keyed, {}, 401)):
        async with exchange(address, "POST", "/v1/responses", request(user="x" * 100_000), headers) as one:
            assert (await one.answer()).refusal[0] == status
            one.send("GET", "/health")
            assert (await one.answer()).value["status"] == "ok"


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on(url: str) -> None:
    async with exchange(url, "POST", "/v1/responses", request(), {"expect": "100-continue"}) as one:
        assert (await one.head()).status == 100
        assert (await one.answer()).value["status"] == "completed"


async def test_an_offer_to_speak_another_protocol_is_passed_over(url: str) -> None:
    """Java's HTTP client offers HTTP/2 so with every first request."""
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAARAAAAAAAIAAAAA"}

    assert (await create(url, offer)).value["status"] == "completed"


async def test_a_websocket_is_refused_so_that_clients_fall_back(url: str) -> None:
    keys = {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version": "13"}
    answer = await ask(url, "GET", "/v1/responses", headers={"connection": "Upgrade", "upgrade": "websocket", **keys})

    assert answer.refusal == (405, None, None)


# -- paths and methods


NOWHERE = [
    *("/v1", "/v1/", "/v1/response", "/v1/responses/", "/v1/responses/x/", "/v1/responses/x/input_items/"),
    *("//v1/models", "/V1/models", "/health/", "/v1/conversation", "/docs", "/favicon.ico", "/%00", "/v1%2Fmodels%00"),
]


@pytest.mark.parametrize("path", NOWHERE)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_path_is_not_found(url: str, method: str, path: str) -> None:
    answer = await ask(url, method, path, headers={"content-length": "0"})

    assert answer.refusal[0] == 404
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/responses", {"GET", "POST"}),
        ("/v1/responses/x", {"GET", "DELETE"}),
        ("/v1/responses/x/input_items", {"GET"}),
        ("/v1/models", {"GET"}),
        ("/v1/models/scripted", {"GET"}),
        ("/health", {"GET"}),
        ("/openapi.json", {"GET"}),
    ],
)
async def test_a_wrong_method_is_told_which_are_right(url: str, path: str, allowed: set[str]) -> None:
    for method in {"GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"} - allowed:
        answer = await ask(url, method, path, headers={"content-length": "0"})
        assert answer.refusal == (405, None, None)
        assert {name.strip() for name in answer.headers["allow"].split(",")} - {"HEAD"} == allowed


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/responses", "/v1/models/scripted", "/openapi.json"])
async def test_head_is_get_without_the_body(url: str, path: str) -> None:
    head, get = await ask(url, "HEAD", path), await ask(url, "GET", path)

    assert (head.status, head.body) == (200, b"")
    assert {name: head.headers[name] for name in ("content-type", "content-length")} == {
        "content-type": "application/json",
        "content-length": str(len(get.body)),
    }


async def test_every_answer_has_a_request_id_of_its_own(url: str, keyed: str) -> None:
    answers = [
        await ask(url, "GET", "/health"),
        await ask(url, "HEAD", "/v1/models"),
        await create(url),
        await create(url, stream=True),
        await create(url, stream=True, input="fail before"),
        await create(url, temperature=3),
        await create(url, {"content-type": "text/plain"}),
        await create(url, {"host": "evil.example"}),
        await models(keyed),
        await ask(url, "GET", "/nowhere"),
        await ask(url, "PUT", "/health"),
    ]
    async with exchange(url, "POST", "/v1/responses", request()) as one:
        answers.append(await one.answer())
        one.send("GET", "/health")
        answers.append(await one.answer())

    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids) == 13
