"""What waits to be sent to one reader: every text, and only the newest frame. A slow reader loses frames."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

_T = TypeVar("_T")
_MOST_TEXTS = 64


class Outbox(Generic[_T]):
    """Filled by who makes, emptied by who sends. Used from the event loop."""

    def __init__(self) -> None:
        self._texts: deque[_T] = deque(maxlen=_MOST_TEXTS)
        self._frame: bytes | None = None
        self._changed = asyncio.Event()

    def put_text(self, text: _T) -> None:
        """Send this after what waits."""
        self._texts.append(text)
        self._changed.set()

    def put_frame(self, frame: bytes) -> bool:
        """Send this when there is room; whether it took the place of one never sent."""
        lost, self._frame = self._frame is not None, frame
        self._changed.set()
        return lost

    async def take(self) -> _T | bytes:
        """The next thing to send, texts first."""
        while not self._texts and self._frame is None:
            self._changed.clear()
            await self._changed.wait()
        if self._texts:
            return self._texts.popleft()
        frame, self._frame = self._frame, None
        assert frame is not None, "checked above"
        return frame
