"""Standard output and error of an executor: text goes to whoever asked for the task that runs."""

from __future__ import annotations

import io
import threading
from typing import Callable

__all__ = ["Stream"]

_BIG = 1 << 16       # characters that go at once
_DELAY = 0.1         # seconds that others may wait for more
LIMIT = 16 << 20     # characters that one task may print; the rest is dropped


class Stream(io.TextIOBase):
    """A text stream that hands what was written to publish(name, text): when there is much of it, when it is flushed, and otherwise after a moment.

    What one task prints beyond LIMIT is dropped, and a line says so.
    """

    def __init__(self, name: str, publish: Callable[[str, str], None], note: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self._publish = publish
        self._note = note  # that there is something to flush
        self._lock = threading.RLock()
        self._parts: list[str] = []
        self._waiting = 0
        self._left = LIMIT
        self._timer: threading.Timer | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Text is sent as UTF-8."""
        return "utf-8"

    def writable(self) -> bool:
        """Yes."""
        return True

    def end_task(self) -> None:
        """Hand over what waits; the next task may print as much as the last."""
        with self._lock:
            self.flush()
            self._left = LIMIT

    def write(self, text: str) -> int:
        """Take text; how many characters."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._note()
        with self._lock:
            kept = self._cut(text)
            if kept:
                self._parts.append(kept)
                self._waiting += len(kept)
            if self._waiting >= _BIG:
                self.flush()
            elif self._waiting and self._timer is None:
                self._timer = threading.Timer(_DELAY, self.flush)
                self._timer.daemon = True
                self._timer.start()
        return len(text)

    def _cut(self, text: str) -> str:
        if self._left < 0:
            return ""
        self._left -= len(text)
        if self._left >= 0:
            return text
        return text[: self._left] + f"\n[output cut: a task may print {LIMIT} characters]\n"

    def flush(self) -> None:
        """Hand over what waits."""
        with self._lock:
            timer, self._timer = self._timer, None
            if timer is not None:
                timer.cancel()
            text = "".join(self._parts)
            self._parts.clear()
            self._waiting = 0
            if text:
                self._publish(self.name, text)
