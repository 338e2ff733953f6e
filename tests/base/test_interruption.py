"""interruption.py: what a first and a second signal do, in a step and outside one, and that nothing of it is left behind."""
import os
import signal

import pytest

from hybridrepair.base import interruption
from hybridrepair.base.errors import UserError, run
from hybridrepair.base.interruption import SIGNALS, Interruption, deferred, handled


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def ended(capsys, main) -> tuple[int, str]:
    """The exit status of an entry, and the one line that it ends with."""
    with pytest.raises(SystemExit) as stop:
        run(main)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return stop.value.code, error.rstrip()


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_entry_ends_at_once_with_the_status_of_the_signal_and_says_that_nothing_is_to_be_gone_on_from(capsys, number, status):
    reached = []

    def main():
        send(number)
        reached.append(1)

    assert ended(capsys, main) == (status, "interrupted; there was nothing to be saved, give the same command again") and not reached


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_step_ends_and_the_line_names_the_last_state_that_is_there(capsys, tmp_path, number, status):
    reached = []

    def main():
        interruption.goes_on_from(tmp_path / "baseline.t7")
        interruption.goes_on_from(tmp_path / "none.t7", tmp_path / "repair.t7")
        for _ in range(3):
            with deferred():
                send(number)
                reached.append(interruption.asked())
                for name in ("baseline.t7", "repair.t7"):
                    (tmp_path / name).touch()

    assert ended(capsys, main) == (status, f"interrupted; the same command goes on from {tmp_path / 'repair.t7'}") and reached == [True]


def test_a_second_signal_ends_a_step_at_once_with_its_own_status_and_a_third_is_the_system_s(capsys):
    reached = []

    def main():
        with deferred():
            send()
            reached.append("first")
            try:
                send(signal.SIGTERM)
                reached.append("second")
            finally:
                reached.extend(signal.getsignal(number) for number in SIGNALS)

    assert ended(capsys, main)[0] == 143 and reached == ["first", signal.SIG_DFL, signal.SIG_DFL]


def test_a_block_within_another_ends_at_the_first_signal_and_what_follows_is_not_begun():
    reached = []
    with handled(), pytest.raises(Interruption), deferred():
        with deferred():
            send()
            reached.append("inner")
        reached.append("outer")
    assert reached == ["inner"]


def test_a_block_that_ends_on_an_error_of_its_own_tells_that(capsys):
    def main():
        with deferred():
            send()
            raise UserError("a thing is wrong; mend it")

    assert ended(capsys, main) == (2, "error: a thing is wrong; mend it")


def test_handlers_and_the_signal_are_forgotten_after_an_entry(capsys):
    before = [signal.getsignal(number) for number in SIGNALS]
    ended(capsys, send)
    assert [signal.getsignal(number) for number in SIGNALS] == before and not interruption.asked()
    with deferred():
        pass  # which would end, were the signal not forgotten


def test_without_an_entry_an_interrupt_of_the_keyboard_is_what_it_always_was():
    reached = []
    with pytest.raises(KeyboardInterrupt) as stop, deferred():
        send()
        reached.append(1)
    assert type(stop.value) is KeyboardInterrupt and not reached


def test_what_is_ignored_as_under_nohup_goes_on_to_be(capsys):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run(send)
    finally:
        signal.signal(signal.SIGINT, before)
