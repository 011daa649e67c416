"""One of several server processes: serves what its supervisor orders on stdin, for as long as that stays open, on
the socket that it inherits. Knows neither the others nor the command line. The protocol is in supervisor.py.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

import msgspec

from antiphon import app, observe
from antiphon.errors import AntiphonError, SettingsError
from antiphon.models.shared import News, SharedEngine
from antiphon.supervisor import Answer, Fails, Orders, Serves

ORDERS_BYTES_MAX = 64 * 1024 * 1024
"""Settings may hold long prompts."""


def main() -> int:
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not mix with the answer
    with asyncio.Runner(loop_factory=app.loop_factory()) as runner:
        return runner.run(_main(answers))


async def _main(answers: int) -> int:
    reader = asyncio.StreamReader(limit=ORDERS_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    if not (line := await reader.readline()):  # told to stop before it was told what to do
        return 0
    orders = msgspec.json.decode(line, type=Orders)
    settings, engines = orders.settings, [SharedEngine(news) for news in orders.engines]
    observe.configure(settings.server.log_format, settings.server.log_level, worker=orders.number)
    app.tune_memory()
    async with AsyncExitStack() as stack:
        try:
            api = await stack.enter_async_context(app.running(settings, engines))
        except AntiphonError as error:
            _answer(answers, Fails(error.message, isinstance(error, SettingsError)))
            return 1
        listener = stack.enter_context(socket.socket(fileno=orders.listener))
        server = app.http_server(api, settings)
        hearing = asyncio.create_task(_hear(reader, engines, server))
        stack.callback(hearing.cancel)
        _answer(answers, Serves())
        observe.log.info("a worker serves", pid=os.getpid())
        app.spare_collector()
        await server.serve(sockets=[listener])
    return 0


def _answer(answers: int, answer: Answer) -> None:
    os.write(answers, msgspec.json.encode(answer) + b"\n")
    os.close(answers)


async def _hear(reader: asyncio.StreamReader, engines: Sequence[SharedEngine], server: app.HttpServer) -> None:
    while line := await reader.readline():
        news = msgspec.json.decode(line, type=News)
        engines[news.engine].hear(news)
    server.retire()


if __name__ == "__main__":
    sys.exit(main())
