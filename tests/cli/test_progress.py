import io

from mmseg_plugins.cli import progress as module
from mmseg_plugins.cli.progress import Progress, format_seconds


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


def run(stream, total, steps, seconds, monkeypatch, **options):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    with Progress("working", total, stream=stream, **options) as progress:
        for _ in range(steps):
            clock.now += seconds
            progress.step()
    return stream.getvalue()


def test_bar_shows_rate_and_time_left_and_is_taken_away(monkeypatch):
    text = run(Terminal(), 10, 5, 2.0, monkeypatch)
    assert "5/10" in text
    assert "0.5 images/s" in text
    assert "left 10 s" in text
    assert "|##########          |" in text
    assert "\n" not in text
    assert text.endswith("\r")


def test_plain_lines_come_rarely_without_a_terminal(monkeypatch):
    lines = run(io.StringIO(), 100, 100, 1.0, monkeypatch).splitlines()
    assert len(lines) == 10
    assert "\r" not in "".join(lines)
    assert lines[0].startswith("working")


def test_unknown_total_and_quiet(monkeypatch):
    assert "left" not in run(Terminal(), None, 3, 1.0, monkeypatch, unit="frames")
    assert run(Terminal(), 3, 3, 1.0, monkeypatch, quiet=True) == ""


def test_lines_do_not_mix_with_the_bar(monkeypatch):
    stream, out = Terminal(), io.StringIO()
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    progress = Progress("working", 3, stream=stream)
    clock.now += 1
    progress.step()
    progress.say("result", out)
    assert out.getvalue() == "result\n"
    assert stream.getvalue().endswith(" \r")


def test_durations():
    assert [format_seconds(s) for s in (0.214, 3, 42, 150, 7265)] == ["0.21 s", "3 s", "42 s", "2:30", "2:01:05"]
