"""For whom the gateway asks the supervisor."""

from __future__ import annotations

from dataclasses import dataclass

from impetusd.core.protocol import Behalf


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who has logged in, or holds a token. The role is theirs; what the supervisor allows may be less."""

    user: str
    role: str  # viewer, operator or admin
    session: str = ""  # which login it was; "" of a token
    address: str = ""  # from where, as far as it is known

    @property
    def behalf(self) -> Behalf:
        """As a request states it."""
        return Behalf(self.user, self.role, self.address)
