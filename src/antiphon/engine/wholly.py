"""Work that is done to its end, also by one who is cancelled meanwhile. Knows not what it is."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def wholly(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
    task.result()
