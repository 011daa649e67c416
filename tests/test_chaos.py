"""A few servers killed at work, always in the same order: `make chaos` kills as many as one likes."""

from tests.chaos import Result, on_postgres, on_sqlite
from tests.postgres import Cluster

KILLS, SEED = 3, 11


def check(result: Result) -> None:
    assert (result.lost, result.repeated, result.stuck) == (0, 0, 0)
    assert result.asked > KILLS


async def test_servers_that_are_killed_lose_repeat_and_leave_nothing() -> None:
    check(await on_sqlite(KILLS, SEED))


async def test_neither_do_they_on_a_postgresql_that_is_restarted(cluster: Cluster) -> None:
    check(await on_postgres(KILLS - 1, SEED, cluster.make("chaos"), cluster))
