"""The doing: asyncio lives here."""
