"""Nobody: every request comes back unasked. What needs answers says so, and everything else goes
its way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from components.client.contract import ClientSettings, Request, Responder, Unanswered, clients


class NoneConfig(ClientSettings):
    """Nobody answers prompts."""

    kind: Literal["none"] = "none"
    """Nobody."""


@clients
class Nobody(Responder):
    """Answers nothing."""

    config = NoneConfig

    @property
    def identity(self) -> Mapping[str, Any]:
        """Nobody is asked."""
        return {"kind": "none"}

    async def check(self) -> None:
        """Nobody can always be asked."""

    async def respond(
        self, requests: Sequence[Request], keys: Sequence[str]
    ) -> Sequence[Unanswered]:
        """No answers."""
        return [
            Unanswered(f"not asked: {self.where}.kind is none; set it to endpoint or local")
        ] * len(requests)
