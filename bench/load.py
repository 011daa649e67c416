"""The load generator: a closed loop of connections that each ask, read the whole answer, and ask again.

Prints one JSON object, `Report`. It runs as its own process so that its work is nobody else's CPU time.
"""

import argparse
import asyncio
import gc
import sys
import time
from typing import cast

import httptools
import msgspec
import uvloop
from msgspec import Struct, field

from bench.answer import Answer
from bench.dialects import DIALECTS
from bench.fakemodel import fake_model
from bench.spread import Spread, spread_ms

PROMPT = "Tell me a short story about a fox, please."
PROBLEMS_MAX = 100


class Plan(Struct, frozen=True, kw_only=True):
    """Either `requests` in all or as many as `seconds` allow; what is under way then is read to its end."""

    port: int
    dialect: str
    model: str
    stream: bool
    connections: int
    requests: int = 0
    seconds: float = 0
    ramp_s: float = 0
    timeout_s: float = 120


class Report(Struct, frozen=True, kw_only=True):
    requests: int
    tokens: int
    problems: int
    first_problem: str | None
    seconds: float
    cpu_s: float
    latency_ms: Spread | None
    ttft_ms: Spread | None
    lag_ms: Spread | None


class Tally(Struct):
    """What the connections have seen so far."""

    requests: int = 0
    tokens: int = 0
    problems: list[str] = field(default_factory=list)
    latencies_us: list[int] = field(default_factory=list)
    ttfts_us: list[int] = field(default_factory=list)
    lags_us: list[int] = field(default_factory=list)

    def add(self, answer: Answer, status: int, asked_us: int, ended_us: int) -> None:
        self.requests += 1
        problem = answer.problem(status)
        if problem:
            self.fail(problem)
        self.tokens += answer.tokens
        self.latencies_us.append(ended_us - asked_us)
        if answer.first_token_us is not None:
            self.ttfts_us.append(answer.first_token_us - asked_us)
        self.lags_us += answer.lags_us

    def fail(self, problem: str) -> None:
        self.problems.append(problem)

    @property
    def hopeless(self) -> bool:
        return len(self.problems) >= PROBLEMS_MAX


def now_us() -> int:
    return time.monotonic_ns() // 1000


class Connection(asyncio.Protocol):
    """One connection to the target; carries one question at a time."""

    def __init__(self) -> None:
        self.status = 0
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._ended: asyncio.Future[int] | None = None
        self._at_us = 0

    @property
    def open(self) -> bool:
        return self._transport is not None

    async def ask(self, request: bytes, answer: Answer) -> int:
        """Waits for the whole answer; says when its last byte came."""
        assert self._transport is not None
        self._answer = answer
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self._at_us = now_us()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(error)
            self.close()

    def on_body(self, body: bytes) -> None:
        assert self._answer is not None
        self._answer.feed(body, self._at_us)

    def on_message_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._ended is None or self._ended.done():
            return
        if error:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(self._at_us)

    def close(self) -> None:
        if self._transport:
            self._transport.close()
            self._transport = None

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._end(ConnectionError(f"closed in the middle of an answer: {error}"))


class Load:
    """Runs one plan."""

    def __init__(self, plan: Plan) -> None:
        self.tally = Tally()
        self.started_us = now_us()
        self._plan = plan
        self._dialect = DIALECTS[plan.dialect]
        model = fake_model(plan.model)
        assert model is not None
        self._model = model
        self._request = self._dialect.request(plan.port, plan.model, PROMPT, stream=plan.stream)
        self._asked = 0

    async def run(self) -> None:
        async with asyncio.timeout(self._plan.timeout_s), asyncio.TaskGroup() as users:
            for number in range(self._plan.connections):
                users.create_task(self._use(number))

    def _take(self) -> bool:
        """Whether there is one more question to ask."""
        if self.tally.hopeless:
            more = False
        elif self._plan.requests:
            more = self._asked < self._plan.requests
        else:
            more = now_us() - self.started_us < self._plan.seconds * 1e6
        self._asked += more
        return more

    async def _use(self, number: int) -> None:
        await asyncio.sleep(self._plan.ramp_s * number / self._plan.connections)
        connection = Connection()
        while self._take():
            try:
                if not connection.open:
                    connection = await self._connect()
                await self._ask(connection)
            except (OSError, httptools.HttpParserError) as error:
                self.tally.fail(repr(error))
        connection.close()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", self._plan.port)
        return connection

    async def _ask(self, connection: Connection) -> None:
        answer = Answer(self._dialect, self._model, stream=self._plan.stream)
        asked_us = now_us()
        ended_us = await connection.ask(self._request, answer)
        self.tally.add(answer, connection.status, asked_us, ended_us)

    def report(self) -> Report:
        tally = self.tally
        return Report(
            requests=tally.requests,
            tokens=tally.tokens,
            problems=len(tally.problems),
            first_problem=tally.problems[0] if tally.problems else None,
            seconds=(now_us() - self.started_us) / 1e6,
            cpu_s=time.process_time(),
            latency_ms=spread_ms(tally.latencies_us),
            ttft_ms=spread_ms(tally.ttfts_us),
            lag_ms=spread_ms(tally.lags_us),
        )


async def run(plan: Plan) -> Report:
    load = Load(plan)
    try:
        await load.run()
    except TimeoutError:
        load.tally.fail(f"not done after {plan.timeout_s} s")
    return load.report()


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs one load and prints what it saw as JSON.")
    parser.add_argument("plan", help="a Plan as JSON")
    gc.disable()  # the process is short, and a collection would look like a late token
    plan = msgspec.json.decode(parser.parse_args().plan, type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(plan))) + b"\n")


if __name__ == "__main__":
    main()
