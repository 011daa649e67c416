"""What the clients' tests share: a server a module, with the scripted model behind it. No client goes elsewhere."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from antiphon.config import ScriptedModel, Settings, Storage
from tests.conftest import serve

MODEL = "scripted"
KNOWN_MODEL = "gpt-5.5"
"""The scripted model too, by a name from which clients conclude what it can do."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One server for all tests of a module: no test looks at what another one stored."""
    database = tmp_path_factory.mktemp("store") / "test.db"
    models = (ScriptedModel(name=MODEL), ScriptedModel(name=KNOWN_MODEL))
    async with serve(Settings(models=models, storage=Storage(database=str(database)))) as address:
        yield address
