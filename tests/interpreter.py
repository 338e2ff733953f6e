"""An interpreter that starts at once: a server that has imported what is slow to import, and forks for each call.

    python interpreter.py SOCKET                       the server; it ends with its standard input
    python interpreter.py SOCKET FILE.py WORDS ...     one call, as `python FILE.py WORDS ...`: in the folder, with the environment
    python interpreter.py SOCKET -c CODE WORDS ...     and with the standard files of whoever calls, whose signals are passed on

The imports are most of what a small command takes. Code of this project is not among them, so that a call runs that of its folder.
"""
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import types

SLOW = ("jinja2", "matplotlib.backends.backend_agg", "matplotlib.figure", "matplotlib.mathtext", "pandas", "scipy.sparse.csgraph",
        "sklearn.cluster", "sklearn.datasets", "torch._dynamo", "torchvision.models", "tqdm")
LONGEST = 2 ** 17  # bytes of the words and the environment of a call
PASSED_ON = signal.SIGINT, signal.SIGTERM


def serve(path: str) -> None:
    """Answer calls at the socket, each by a process of its own, until standard input ends."""
    for name in SLOW:
        __import__(name)
    gc.freeze()  # forks need not look through it
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path + ".new")
    listener.listen()
    os.rename(path + ".new", path)  # it is there when it answers
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            attend(connection)
            return
        connection.close()
        with contextlib.suppress(ChildProcessError):  # none is left
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def attend(connection: socket.socket) -> None:
    """Run the call in a fork, pass on the signals that come for it, and tell its exit status."""
    message, files, *_ = socket.recv_fds(connection, LONGEST, 3)
    running, at_its_end = os.pipe()
    child = os.fork()
    if child == 0:
        connection.close()
        os.close(running)
        become(files, **json.loads(message))
        return
    for each in (at_its_end, *files):
        os.close(each)
    while running not in select.select([running, connection], [], [])[0]:
        number = connection.recv(16)
        os.kill(child, int(number or signal.SIGKILL))  # nothing comes from a caller that has died
        if not number:
            break
    _, status = os.waitpid(child, 0)
    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def become(files: list[int], words: list[str], folder: str, environment: dict[str, str]) -> None:
    """Be `python WORDS` from here to the end of the process."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1, errors="backslashreplace")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    first = "" if words[0] == "-c" else os.path.dirname(os.path.realpath(words[0]))
    sys.path[:0] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = words
        runpy.run_path(os.path.abspath(words[0]), run_name="__main__")  # as __file__ is, by which multiprocessing finds it again


def call(path: str, words: list[str]) -> None:
    """Have the server run the words, and end as they end."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(path)
    came, noted = socket.socketpair()  # a handler in Python is not called for a signal that comes just before the wait
    noted.setblocking(False)
    signal.set_wakeup_fd(noted.fileno())
    for number in PASSED_ON:
        signal.signal(number, lambda *_: None)
    message = json.dumps({"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    assert len(message) < LONGEST, len(message)
    socket.send_fds(connection, [message], [0, 1, 2])
    while connection not in select.select([connection, came], [], [])[0]:
        for number in came.recv(16):
            connection.send(str(number).encode())
    status = int(connection.recv(16) or 1)
    if status < 0:
        if -status in PASSED_ON:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    serve(sys.argv[1]) if len(sys.argv) == 2 else call(sys.argv[1], sys.argv[2:])
