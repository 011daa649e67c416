"""A few servers killed at work, always in the same order: `make chaos` kills as many as one likes."""

from tests.chaos import chaos

KILLS, SEED = 4, 11


async def test_servers_that_are_killed_lose_repeat_and_leave_nothing() -> None:
    result = await chaos(KILLS, SEED)

    assert (result.lost, result.repeated, result.stuck) == (0, 0, 0)
    assert result.asked > KILLS
