"""What all tests share: a seed, the values recorded from the published code, small data."""
import contextlib
import csv
import importlib.util
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, NoReturn

# before torch is imported: threads that wait for each other in turn are slow beside other work (544 s, not 15 s)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from hybridrepair.base.errors import UserError, run
from hybridrepair.base.interruption import SIGNALS
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.images.data import Dataset

ROOT = Path(__file__).parents[1]
LONGEST = 400  # seconds that a test waits for something: a machine may be busy, and pytest-timeout ends a test after 600
PORTS = iter(range(20_000 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 12_000, 32_768))  # of 120 workers and more

# a shell starts what runs in its background with SIGINT ignored, and nohup with SIGHUP: processes of the tests would have it too
for ignored, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, usual)


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the long tests too: many kills, many damaged files, large pools")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(7200) if config.getoption("--all") else pytest.mark.skip(reason="long: run by --all"))


@pytest.fixture
def stable_sort(monkeypatch):
    """numpy's argsort keeps the order of equals: else scikit-learn's HDBSCAN joins edges as long in an order of the processor's."""
    monkeypatch.setattr(np, "argsort", partial(np.argsort, kind="stable"))


@pytest.fixture(autouse=True)
def seeded():
    """Weights and random tensors of each test, whichever tests run before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def python(pytestconfig, tmp_path_factory) -> Iterator[str]:
    """An executable that does what Python does with a script or -c, without the seconds that imports take; with --all it is Python."""
    folder = tmp_path_factory.mktemp("python")
    if pytestconfig.getoption("--all"):
        (folder / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')  # a link would leave its environment
        (folder / "python").chmod(0o755)
        yield str(folder / "python")
        return
    server = [sys.executable, "-I", str(Path(__file__).with_name("interpreter.py")), str(folder / "socket")]
    (folder / "python").write_text(f'#!/bin/sh\nexec {shlex.join([server[0], "-IS", *server[2:]])} "$@"\n')
    (folder / "python").chmod(0o755)
    with begun(server, stdin=subprocess.PIPE, cwd=folder) as running:
        while not (folder / "socket").exists():
            assert running.poll() is None
            time.sleep(0.05)
        yield str(folder / "python")
        running.stdin.close()


@pytest.fixture(scope="session")
def oracle() -> Path:
    """Folder of the reference values (HYBRIDREPAIR_ORACLE overrides it); tests that need it are skipped without it."""
    folder = Path(os.environ.get("HYBRIDREPAIR_ORACLE") or Path(__file__).parents[2] / "shared" / "oracle")
    if not folder.is_dir():
        pytest.skip(f"reference values not found: {folder}")
    return folder


def copy_code(folder: Path) -> None:
    """The code of the repository and its scripts, without data and results."""
    for pattern in ("*.py", "*.sh", "cluster/*.sbatch", "requirements*.txt", "mymodels/*.py", "hybridrepair/**/*.py",
                    "hybridrepair/report/templates/*"):
        for file in ROOT.glob(pattern):
            (folder / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / file.relative_to(ROOT))


def write_small(root: Path, pool: int = 200) -> Path:
    """A dataset `small` of arrays in `root`: handwritten 0s to 3s of 8x8 pixels, 120 train, 60 val, 120 T2, 200 or fewer pool."""
    digits = load_digits(n_class=4)
    folder = root / "small"
    folder.mkdir(parents=True)
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:340 + pool, :, :, None].repeat(3, axis=3)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", digits.target[:340 + pool].astype(np.int64))
    split = {"train": [0, 160], "val": [160, 220], "T2": [220, 340], "pool": [340, 340 + pool]}
    (folder / "dataset.json").write_text(json.dumps({"split": split, "classes": ["zero", "one", "two", "three"]}))
    return folder


@contextlib.contextmanager
def begun(words: list, **more) -> Iterator[subprocess.Popen]:
    """A process, with a group of its own, beside which the block runs; if that fails the group is killed, else it is waited for."""
    with subprocess.Popen(words, start_new_session=True, **more) as process:
        try:
            yield process
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise


def inertia(points: np.ndarray, label: np.ndarray) -> float:
    """Sum of squared distances to the centroids of the clusters."""
    return sum(((points[label == c] - points[label == c].mean(0)) ** 2).sum() for c in np.unique(label))


def bunches(sizes: list[int], scattered: int = 0) -> torch.Tensor:
    """Unit vectors [N, 16]: tight bunches of these sizes along the first axes, then points in all directions."""
    rng = np.random.default_rng(0)
    parts = [np.eye(16)[i] + 0.02 * rng.normal(size=(size, 16)) for i, size in enumerate(sizes)]
    points = np.concatenate([*parts, rng.normal(size=(scattered, 16))])
    return torch.nn.functional.normalize(torch.from_numpy(points).float())


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")
    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def names_in(folder: Path) -> list[str]:
    """What a folder holds, without the hidden files of locks."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def twice_at_once(call) -> None:
    """Let two processes call `call` at the same time; both must end well. They must not train: torch refuses that after a fork."""
    context = multiprocessing.get_context("fork")  # starts at once: torch is imported here already
    start = context.Barrier(2)

    def begin() -> None:
        start.wait(LONGEST)
        call()

    processes = [context.Process(target=begin) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LONGEST)
    assert [process.exitcode for process in processes] == [0, 0]


class Ended(NamedTuple):
    """How a process has ended: its exit status, or less than 0 the signal, and what it printed."""
    status: int
    out: str
    err: str


def free_port() -> int:
    """A port of this machine, none of those that it gives by itself: what binds it later finds it free still."""
    for port in PORTS:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def in_processes(n: int, folder: Path, work: Callable[[int], object]) -> list[Ended]:
    """What becomes of n forked processes of one run in `folder`, as torchrun would start them: each does its `work`, told its rank."""
    variables = {"LOCAL_RANK": 0, "WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started, status = [], []
    try:
        for rank in range(n):
            started.append(os.fork())
            if not started[-1]:
                _be_one(lambda: work(rank), rank, folder, variables | {"RANK": rank})  # noqa: B023  # called at once
        for process in started:
            status.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    finally:
        for process in started[len(status):]:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    return [Ended(status[rank], *((folder / f"{name}_{rank}.txt").read_text() for name in ("out", "err"))) for rank in range(n)]


def _be_one(work: Callable[[], object], rank: int, folder: Path, variables: dict) -> NoReturn:
    """Be one of the processes, to the end."""
    def begin() -> None:
        sys.stdout, sys.stderr = (open(folder / f"{name}_{rank}.txt", "w") for name in ("out", "err"))
        os.chdir(folder)
        os.environ.update({name: str(value) for name, value in variables.items()})
        run(work)

    to_the_end(begin, LONGEST)


def to_the_end(work: Callable[[], object], seconds: int) -> NoReturn:
    """End this forked process with the work, by its status, or after so many seconds rather than hang."""
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # that of the process it comes from is pytest-timeout's
        signal.alarm(seconds)
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Slow:
    """A stand for a function, which takes a while, tells a file of each call, and does what `call` does."""

    def __init__(self, told: Path, call):
        self.told, self.call = told, call

    def __call__(self, *args, **more):
        with open(self.told, "a") as file:
            file.write("called\n")
        time.sleep(0.3)
        return self.call(*args, **more)

    @property
    def calls(self) -> int:
        return len(self.told.read_text().splitlines())


def interrupted_at(call: int, function):
    """A stand for a function, which does what it does, and is interrupted in its `call`-th call."""
    calls = []

    def stand(*args, **more):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **more)

    return stand


def field_of(folder: Path, n: int, classes: tuple[str, ...] = ("cat", "dog", "owl"), files: bool = True) -> Dataset:
    """A dataset of n unlabelled images of different grey in a pool, as field/0.png and on in `folder`, or as arrays."""
    images = np.full((n, 8, 8, 3), 10, dtype=np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]
    names = tuple(f"field/{i}.png" for i in range(n)) if files else ()
    (folder / "field").mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images):
        Image.fromarray(image).save(folder / name)
    return Dataset("field", len(classes), [*classes], (.5,) * 3, (.5,) * 3, images, np.full(n, UNKNOWN), {"pool": np.arange(n)},
                   folder, names)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none where it does not exist."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Counted:
    """Functions whose calls are noted by name; in that of number `last` this process gets a signal."""

    def __init__(self, monkeypatch, *functions: tuple[ModuleType, str]):
        self.calls: list[str] = []
        self.last = 0
        for module, name in functions:
            monkeypatch.setattr(module, name, self.noted(name, getattr(module, name)))

    def noted(self, name: str, genuine):
        def call(*given, **more):
            self.calls.append(name)
            if len(self.calls) == self.last:
                os.kill(os.getpid(), SIGNALS[self.last % 2])
            return genuine(*given, **more)
        return call


def refusal(function, *args, **more) -> str:
    """The message of the UserError that the call raises, which must be one line."""
    with pytest.raises(UserError) as caught:
        function(*args, **more)
    message = str(caught.value)
    assert "\n" not in message and not message.endswith(".")
    return message


def arrays(folder: Path, count: int = 12, shape: tuple = (9, 10, 3), description: dict | None = None) -> np.ndarray:
    """Write a small dataset of two classes as arrays; returns its images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.arange(count) % 2)
    if description is not None:
        (folder / "dataset.json").write_text(json.dumps(description))
    return images


def picture(path: Path, color, size: tuple = (40, 30), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def image_folder(folder: Path) -> None:
    """train: 2 cats, 2 dogs; val and test: one each; field: 3 flat images, 1 labelled."""
    for part, count in (("train", 2), ("val", 1), ("test", 1)):
        for i in range(count):
            picture(folder / part / "cat" / f"{i}.png", (200, 0, 0))
            picture(folder / part / "dog" / f"{i}.JPG", (0, 200, 0))
    for i in range(3):
        picture(folder / "field" / f"{i}.png", (0, 0, 10 * i))
    picture(folder / "field" / "dog" / "0.png", 77, mode="L")


TINY = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 12), nn.ReLU(), nn.Linear(12, num_classes))
"""
CALL = ["--data_path", "data", "--model2test_arch", "tiny.py:build", "--model2test_path", "tiny.pt", "--fe", "model2test",
        "--retrain_epoch", "1", "--device", "cpu"]  # of repair.py and selection.py, with what `write_tiny` writes


def write_tiny(folder: Path, num_classes: int = 2) -> None:
    """A file tiny.py that builds a network for images of any size, and its random weights tiny.pt: the cheapest model under repair."""
    (folder / "tiny.py").write_text(TINY)
    names: dict = {}
    exec(TINY, names)
    torch.manual_seed(0)
    torch.save(names["build"](num_classes).state_dict(), folder / "tiny.pt")


def results_script(name: str) -> ModuleType:
    """A script of results/, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "results" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_trained(folder: Path) -> None:
    """What a script of results/ needs in `folder`: `small` in data/, a tiny model, and which of 120 images that was trained on."""
    write_small(folder / "data")
    write_tiny(folder, 4)
    (folder / "biased_dataset/0").mkdir(parents=True)
    np.save(folder / "biased_dataset/0/train.npy", np.arange(120))


def write_pool(root: Path, images: np.ndarray, labels: np.ndarray, name: str = "field") -> None:
    """A dataset of two classes in `root`: 20 train and 20 T2 images of noise, and these as its pool."""
    others = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    folder = root / name
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.concatenate([others, images]))
    np.save(folder / "labels.npy", np.concatenate([np.arange(40) % 2, labels]))
    split = {"train": [0, 20], "T2": [20, 40], "pool": [40, None]}
    (folder / "dataset.json").write_text(json.dumps({"split": split, "classes": ["cat", "dog"], "mean": [.5] * 3, "std": [.25] * 3}))


@pytest.fixture
def unpainted(monkeypatch) -> None:
    """As `unpaint` has it."""
    unpaint(monkeypatch)


def unpaint(patch: pytest.MonkeyPatch) -> None:
    """Let runs leave neither plots nor a report, which take ten times as long as all the rest of a tiny one."""
    for name in ("plots.write", "page.write", "plots.save"):
        patch.setattr(f"hybridrepair.report.{name}", lambda *given: None)
