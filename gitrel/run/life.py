"""What a server remembers of signs of life: records that verify, and when they were signed (`gitrel.run.freshness`)."""

from __future__ import annotations

from typing import Any, Self

from gitrel.dataclass import asdict, dataclass
from gitrel.ids import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Times are seconds since 1970.

    `alive`: when the newest sign of life was made, by its date and no later than it was first seen here, by this
    server's clock. `heartbeat`: the newest that counted; `mute`: why a newer one does not. `max_silence` (seconds) and
    `hold`: what the newest release here asks for. `said`: since when this server is stale, as the log said last.
    """

    alive: float | None = None
    heartbeat: Entry | None = None
    mute: str | None = None
    max_silence: float | None = None
    hold: bool = False
    said: float | None = None

    def stale_since(self, now: float, contact: float | None) -> float | None:
        """Since when nothing was signed for longer than `max_silence`; None if that is not so, or nobody asked.

        `contact`: when the remote last answered. A clock that was set back behind that counts as standing still there.
        """
        if self.alive is None or self.max_silence is None:
            return None
        due = self.alive + self.max_silence
        return due if max(now, contact or 0.0) > due else None

    def encode(self) -> dict[str, Any]:
        return {**asdict(self), "heartbeat": self.heartbeat and str(self.heartbeat)}

    @classmethod
    def parse(cls, document: Any) -> Self:
        """Raises `ValueError`, `KeyError`, `TypeError`, `FormatError`."""
        heartbeat = document["heartbeat"]
        return cls(**{**document, "heartbeat": None if heartbeat is None else Entry.parse(heartbeat)})
