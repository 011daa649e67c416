"""Keys: API keys made and revoked by who has one, for the same project. Knows no HTTP."""

import secrets

from antiphon.core.ids import Clock
from antiphon.core.ports import ApiKey, Store
from antiphon.crypto import Secret, digest, hint, new_key


class Keys:
    """Every method takes the project: keys of another do not exist. Keys that stand in the settings are not among
    them."""

    def __init__(self, store: Store, secret: Secret, clock: Clock) -> None:
        self._store = store
        self._secret = secret
        self._clock = clock

    async def all(self, project: str) -> list[ApiKey]:
        return [key for key in await self._store.keys() if key.project == project]

    async def add(self, project: str, name: str) -> tuple[ApiKey, str]:
        """And the key itself, which nobody can tell later."""
        key = new_key()
        kept = ApiKey(
            id=f"key_{secrets.token_hex(8)}",
            project=project,
            name=name,
            hint=hint(key),
            digest=digest(key, self._secret),
            created_at=self._clock(),
        )
        await self._store.add_key(kept)
        return kept, key

    async def revoke(self, project: str, key_id: str) -> bool:
        """False when there is none."""
        if not any(key.id == key_id for key in await self.all(project)):
            return False
        return await self._store.revoke_key(key_id)
