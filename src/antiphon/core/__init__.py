"""The thinking: pure. No I/O, no clock, no randomness, no asyncio."""
