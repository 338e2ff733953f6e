"""progress.py: without a terminal, what takes minutes tells now and then how far it is, and what takes less tells nothing."""
import time

import pytest

from hybridrepair.base.progress import progress


@pytest.fixture
def told(monkeypatch, capsys):
    """The lines of a progress through n steps of so many seconds each, of which those skipped take no time."""
    def of(n: int, seconds: float, skipped: int = 0) -> list[str]:
        now = [100.0]
        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
        for number, step in enumerate(progress(range(n), "steps", skipped)):
            assert step == number
            now[0] += seconds if number >= skipped else 0
        out, err = capsys.readouterr()
        assert err == ""
        return out.splitlines()
    return of


def test_less_than_a_minute_tells_nothing(told):
    assert told(59, 1) == told(1, 1000) == told(0, 1) == []


def test_some_minutes_tell_a_line_each(told):
    assert told(200, 1) == ["steps: 30 % after 1:00", "steps: 60 % after 2:00", "steps: 90 % after 3:00"]


def test_hours_tell_a_line_for_each_tenth(told):
    assert told(546, 3.5) == [f"steps: {each}" for each in (
        "10 % after 3:12", "20 % after 6:25", "30 % after 9:37", "40 % after 12:50", "50 % after 16:02", "60 % after 19:15",
        "71 % after 22:27", "81 % after 25:40", "91 % after 28:52")]


def test_a_slow_step_is_told_after_it(told):
    assert told(3, 100) == ["steps: 33 % after 1:40", "steps: 67 % after 3:20"]


def test_steps_that_were_done_before_are_not_told(told):
    """Without this the first line would be "steps: 51 % after 1:00", a minute into a pass of which half was done."""
    assert told(600, 2, skipped=300) == ["steps: 60 % after 2:00", "steps: 70 % after 4:00", "steps: 80 % after 6:00",
                                         "steps: 90 % after 8:00"]
    assert told(4, 100, skipped=4) == []
