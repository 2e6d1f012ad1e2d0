"""What a server must be able to do so that predictions can wait in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_mlobs.core.records import Joined, Label, Prediction, Record


class Backend(Protocol):
    """A server's side of the store. Whatever is asked of it may be asked twice, and is done once."""

    kind: str

    def write(self, predictions: Sequence[Prediction]) -> int:
        """Keep ``predictions``; how many have an id that another prediction has."""

    def join(self, labels: Sequence[Label]) -> list[Joined]:
        """Join ``labels``; what became of each."""

    def claim(self, stream: str, now: float, limit: int, token: str) -> list[Record]:
        """Give out what is mature; the same again for the same ``token``."""

    def records(self, stream: str, start: float, end: float) -> Iterator[list[Record]]:
        """Records by prediction time, in lists."""

    def streams(self) -> list[str]:
        """The streams that have records."""

    def forget(self, prediction_id: str) -> bool:
        """Remove a prediction and its labels."""

    def sweep(self) -> None:
        """Remove what has expired and the server does not remove by itself."""

    def refuses(self, error: Exception) -> bool:
        """Whether ``error`` is about a record, which would fail for ever, and not about the server."""

    def close(self) -> None:
        """Let all connections go."""

    def start_afresh(self) -> None:
        """Use none of the connections made so far, nor close them: they are the parent process's."""
