"""Progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import TextIO

_BAR = 20
_SECONDS = {True: 0.1, False: 10.0}  # between updates, by whether the stream is a terminal


class Progress:
    """Shows how far a run is, its rate, and the time left.

    Use as a context manager; leaving it takes the bar away.

    Args:
        what: what is being done, the first word of the line.
        total: number of steps; None where it is not known.
        unit: what a step is, in the plural.
        stream: where to write; None: stderr.
        quiet: show nothing.
    """

    def __init__(
        self, what: str, total: int | None, *, unit: str = "images", stream: TextIO | None = None, quiet: bool = False
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._is_terminal = self._stream.isatty()
        self._start = self._shown = time.monotonic()
        self._done = 0
        self._width = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()

    def step(self, count: int = 1) -> None:
        """Note that so many more steps are done."""
        self._done += count
        now = time.monotonic()
        if self._quiet or now - self._shown < _SECONDS[self._is_terminal]:
            return
        self._shown = now
        text = self.text(now - self._start)
        if self._is_terminal:
            self._stream.write(f"\r{text:<{self._width}}")
            self._width = len(text)
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def say(self, text: str, stream: TextIO | None = None) -> None:
        """Print a line without disturbing the bar.

        Args:
            text: the line.
            stream: where to; None: stdout.
        """
        self.clear()
        print(text, file=stream or sys.stdout, flush=True)

    def clear(self) -> None:
        """Take the bar off the terminal."""
        if self._width:
            self._stream.write(f"\r{' ' * self._width}\r")
            self._stream.flush()
            self._width = 0

    def text(self, seconds: float) -> str:
        """Return the line after so many seconds."""
        rate = self._done / seconds if seconds > 0 else 0.0
        parts = [self._what]
        if self._total:
            filled = min(_BAR, _BAR * self._done // self._total)
            parts.append(f"|{'#' * filled:<{_BAR}}|")
            parts.append(f"{self._done}/{self._total}")
        else:
            parts.append(str(self._done))
        parts.append(f"{rate:.3g} {self._unit}/s")
        if self._total and rate:
            parts.append(f"left {format_seconds((self._total - self._done) / rate)}")
        return "  ".join(parts)


class ProgressLine:
    """The same for work that reports by itself: called with what is done, how many of them, and how many in all.

    Args:
        seconds: between plain lines, where stderr is no terminal.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._start = self._last = time.monotonic()

    def __call__(self, label: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` items are finished."""
        now = time.monotonic()
        is_terminal = sys.stderr.isatty()
        if done not in (0, total) and now - self._last < (0.2 if is_terminal else self._seconds):
            return
        self._last = now
        rate = done / max(now - self._start, 1e-6)
        left = f", left {(total - done) / rate:.0f} s" if done and done < total else ""
        end = "\r" if is_terminal and done < total else "\n"
        if done or total:
            print(f"{label}: {done}/{total}{left}", end=end, file=sys.stderr, flush=True)


def format_seconds(seconds: float) -> str:
    """Write a duration.

    Example:
        >>> format_seconds(0.21), format_seconds(150), format_seconds(7260)
        ('0.21 s', '2:30', '2:01:00')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
