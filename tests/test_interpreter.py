"""interpreter.py: the tests' Python that starts at once says, leaves and ends as Python itself, which these tests run with --all."""
import os
import signal
import subprocess

import pytest

from conftest import LONGEST, begun


def run(python: str, *words: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run([python, *words], capture_output=True, text=True, timeout=LONGEST, **more)


@pytest.mark.parametrize("code, status, said", [
    ("pass", 0, ""), ("import sys; sys.exit(3)", 3, ""), ("raise SystemExit('no')", 1, "no\n"), ("1 / 0", 1, "ZeroDivisionError: "),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
    ("import os; os._exit(7)", 7, "")])
def test_a_call_ends_as_its_code_does(python, code, status, said):
    done = run(python, "-c", code)
    assert done.returncode == status and done.stdout == "" and said in done.stderr and bool(done.stderr) == bool(said)


def test_words_folder_environment_and_standard_files_are_the_callers(python, tmp_path):
    (tmp_path / "beside.py").write_text("VALUE = 5")
    (tmp_path / "a.py").write_text("import os, sys, beside\n"
                                   "print(__name__, sys.argv[1:], os.getcwd(), os.environ['TOLD'], sys.stdin.read(), beside.VALUE)")
    done = run(python, str(tmp_path / "a.py"), "b c", "--d", cwd="/", input="asked", env=os.environ | {"TOLD": "e"})
    assert done.stdout == "__main__ ['b c', '--d'] / e asked 5\n" and done.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_code(python, number):
    code = (f"import signal, sys, time\nsignal.signal({int(number)}, lambda *_: sys.exit(9))\nprint('ready', flush=True)\n"
            "while True:\n    time.sleep(0.1)")  # in place of a pause, which a signal that comes just before it would not end
    with begun([python, "-c", code], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "ready\n"
        running.send_signal(number)
        assert running.wait(LONGEST) == 9
