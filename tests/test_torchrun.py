"""Several processes of one run, as torchrun starts them: what the entries give and leave is what one process does."""
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import pretrain_moco
import repair
import selection
import train_classifier
from conftest import LONGEST, ROOT, Ended, in_processes, read_rows, unpaint, write_small
from hybridrepair.training import passes
from mymodels import mobilenet
from mymodels.moco import ARCHITECTURES

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a process that has used a GPU cannot be forked")
NETWORK = '''
from torch import nn

def build(classes=4):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(32, classes))
'''
EXACT = '''
from torch import nn

from mymodels import create

class Exact(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.net = create("MobileNet", classes, 3).double()

    def forward(self, x):
        return self.net(x.double())[0]
'''
MODEL, TUNED, REPAIRED = "check_point/*/ckpt_bias/*_0_b.t7", "check_point/*/ckpt_bias/*finetuned*.t7", "save/*/*/*_repaired.t7"
MOCO = "check_point/small/ckpt_pretrained_mocov3/checkpoint.pth.tar"
DATA = ["--dataset", "small", "--device", "cpu"]
TRAIN = [*DATA, "--data_root", "data", "--model", "net.py:build", "--n_epochs", "3", "--lr", "0.1", "--save_every", "0"]
REPAIR = [*DATA, "--data_path", "data", "--model2test_arch", "net.py:build", "--model_number", "0", "--fe", "model2test",
          "--p_budget", "5", "--auto_tao", "--u_weight", "--retrain_epoch", "2", "--retrain_lr", "0.01", "--save_every", "0"]
PRETRAIN = [*DATA, "--data_root", "data", "--arch", "resnet18", "--dim", "4", "--mlp_dim", "8", "--n_images", "40", "--batch_size",
            "20", "--n_epochs", "2"]


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    unpaint(monkeypatch)
    monkeypatch.setitem(ARCHITECTURES, "resnet18", (ARCHITECTURES["resnet18"][0], (1, 1, 1, 1)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a dataset, a network, and a model under repair by one process."""
    folder = tmp_path_factory.mktemp("trained")
    write_small(folder / "data", pool=150)
    (folder / "net.py").write_text(NETWORK)
    call(1, folder, train_classifier, TRAIN)
    return folder


@pytest.fixture
def again(trained, tmp_path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(trained, tmp_path / "again"))


def call(n: int, folder: Path, entry: ModuleType, words: list[str], before: Callable[[int], object] | None = None) -> list[Ended]:
    """What becomes of an entry in n processes, each of which does something `before`; without it they must end well."""
    def work(rank: int) -> None:
        if before:
            before(rank)
        entry.main(entry.parse_args(words))
    ended = in_processes(n, folder, work)
    assert before or [each.status for each in ended] == [0] * n, ended
    return ended


def weights(folder: Path, pattern: str, entry: str = "net") -> dict[str, torch.Tensor]:
    (path,) = folder.glob(pattern)
    return torch.load(path)[entry]


def require_near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], limit: float = 1e-4) -> None:
    """What was trained differs by less than the limit, in parts of its length.

    Batch norm's statistics may differ by more: torch sums variances up in float32, on the CPU to 1e-3, several processes to 1e-7.
    """
    names = [name for name in one if "num_batches" not in name]
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one if name not in names)
    for running, most in ((False, limit), (True, 10 * limit)):
        a, b = (torch.cat([each[name].double().flatten() for name in names if ("running" in name) == running]) for each in (one, other))
        assert (a - b).norm() < most * a.norm()


def require_same_repair(one: Path, other: Path) -> None:
    """The same run, selection and estimates of tau, and weights that differ by rounding at most; nothing else is left."""
    (run,), (again,) = ([row for path in folder.glob("save/*/results.csv") for row in read_rows(path)] for folder in (one, other))
    for name in ("run", "n_annotated", "n_propagated", "propagation_acc", "n_unlabelled", "tau", "tau_auto", "unsmoothness_before"):
        assert run[name] == again[name] != "", name
    chosen = [[path.read_bytes() for path in folder.glob("save/*/*/selected.csv")] for folder in (one, other)]
    assert chosen[0] == chosen[1] and len(chosen[0]) == 1
    for pattern in (TUNED, REPAIRED):
        require_near(weights(one, pattern), weights(other, pattern))
    assert names(one) == names(other)


def names(folder: Path) -> list[str]:
    """All files, without those that say what processes printed, and locks."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")
                  if not (re.fullmatch(r"(out|err)_\d\.txt", path.name) or path.name.endswith(".lock") or "__pycache__" in path.parts))


@pytest.fixture(scope="module")
def repaired(trained, tmp_path_factory) -> Path:
    """What one process leaves of a repair."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("repaired") / "whole"))
    with pytest.MonkeyPatch.context() as patch:
        unpaint(patch)
        call(1, folder, repair, REPAIR)
    return folder


@pytest.mark.parametrize("n", [2, 3])
def test_several_processes_repair_as_one_does(n, again, repaired):
    first, *others = call(n, again, repair, REPAIR)
    assert first.out.startswith(f"{n} processes on 1 machine share the work, by gloo\n") and first.err == ""
    assert first.out.splitlines()[-1].startswith("T2 Acc before/after repair: ") and others == [(0, "", "")] * (n - 1)
    require_same_repair(repaired, again)
    assert "done already" in call(n, again, repair, REPAIR)[0].out


def test_several_processes_learn_from_the_teacher_of_one(again, trained, tmp_path):
    alone = Path(shutil.copytree(trained, tmp_path / "alone"))
    rows = []
    for n, folder in ((1, alone), (3, again)):
        call(n, folder, repair, [*REPAIR, "--solution", "hybrid+"])
        rows += [row for path in folder.glob("save/*/results.csv") for row in read_rows(path)]
    for name in ("run", "teacher_weight_model", "teacher_weight_features", "teacher_acc", "acc_before"):
        assert rows[0][name] == rows[1][name] != "", name
    require_near(weights(alone, REPAIRED), weights(again, REPAIRED))


@pytest.mark.long
@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_two_and_three_processes_repair_as_one_does_on_real_images(name, tmp_path, monkeypatch):
    """A MobileNet of three blocks; of CIFAR-10 2,000 images, from the folder of datasets that HYBRIDREPAIR_DATA names.

    On digits in float64: of the rounding of float32 another number of threads alone makes 1e-3 there, since what is right is replayed.
    """
    monkeypatch.setattr(mobilenet, "BLOCKS", ((64, 2), (128, 2), (1024, 2)))
    start, data, network = tmp_path / "start", ["--dataset", name, "--device", "cpu"], "MobileNet"
    (start / "data" / name).mkdir(parents=True)
    if name == "cifar10":
        full = Path(os.environ.get("HYBRIDREPAIR_DATA") or ROOT / "dataset", name)
        if not (full / "images.npy").exists():
            pytest.skip(f"no CIFAR-10 in {full}; give the folder of datasets as HYBRIDREPAIR_DATA")
        for file in ("images.npy", "labels.npy"):
            np.save(start / "data" / name / file, np.load(full / file, mmap_mode="r")[::30])
        split = {"train": [0, 800], "val": [800, 900], "T2": [900, 1200], "pool": [1200, None]}
        (start / "data" / name / "dataset.json").write_text(json.dumps({"split": split}))
    if name == "digits":
        (start / "net.py").write_text(EXACT)
        network = "net.py:Exact"
    call(1, start, train_classifier, [*data, "--data_root", "data", "--model", network, "--class_weight", "0", "--n_epochs", "8"])
    for n in (1, 2, 3):
        folder = Path(shutil.copytree(start, tmp_path / str(n)))
        call(n, folder, repair, [*data, "--data_path", "data", "--model2test_arch", network, "--model_number", "0", "--fe",
                                 "model2test", "--p_budget", "5", "--auto_tao", "--u_weight", "--retrain_epoch", "2",
                                 "--retrain_lr", "0.001"])
        require_same_repair(tmp_path / "1", folder)


def test_several_processes_train_pretrain_and_select_as_one_does(again, trained, tmp_path):
    shutil.rmtree(again / "check_point")
    call(2, again, train_classifier, TRAIN)
    require_near(weights(trained, MODEL), weights(again, MODEL))
    assert names(trained) == names(again)
    alone = Path(shutil.copytree(trained, tmp_path / "alone"))
    shutil.rmtree(again / "check_point")
    shutil.copytree(alone / "check_point", again / "check_point")
    for n, folder in ((1, alone), (2, again)):
        call(n, folder, pretrain_moco, PRETRAIN)
        call(n, folder, selection, [*REPAIR, "--out", "to_label"])
        call(n, folder, selection, [*REPAIR, "--solution", "typiclust"])
    # its ResNet makes more of rounding at first; in float64 tests/training/test_shares.py has it equal
    require_near(weights(alone, MOCO, "state_dict"), weights(again, MOCO, "state_dict"), 0.02)
    assert names(alone) == names(again)
    for pattern in ("to_label/*.csv", "save/small_net_build/selection_*/selected.csv"):
        (*found,) = again.glob(pattern)
        assert found and all(path.read_bytes() == (alone / path.relative_to(again)).read_bytes() for path in found)


# --- how they end, and go on

def at(place: int, do: Callable[[], object], *, name: str = "ssl_step", rank: int = 0) -> Callable[[int], None]:
    """Does something in a process at the call of that number of a function of the passes."""
    def before(here: int) -> None:
        calls, genuine = [], getattr(passes, name)

        def noted(*given, **more):
            calls.append(1)
            if len(calls) == place and here == rank:
                do()
            return genuine(*given, **more)
        setattr(passes, name, noted)  # in a process of its own
    return before


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("first, then, do, rank", [(2, 1, die, 1), (1, 2, die, 0), (3, 2, interrupt, 2)])
def test_a_repair_that_so_many_processes_began_goes_on_with_another_number(first, then, do, rank, again, repaired):
    ended = call(first, again, repair, REPAIR, at(3, do, rank=rank))
    if do is interrupt:
        assert [each.status for each in ended] == [143] * first
        assert ended[0].err.startswith("interrupted; the same command goes on from save/") and not any(each.err for each in ended[1:])
    else:
        assert ended[rank].status == -signal.SIGKILL
        assert first == 1 or ended[0].status == 1 and ended[0].err.startswith("error: another process of this run has ended (")
    told = call(then, again, repair, REPAIR)[0].out
    assert "going on after epoch " in told
    require_same_repair(repaired, again)


def test_torchrun_runs_an_entry_and_a_fault_is_told_once(again, python):
    def torchrun(*words: str) -> subprocess.CompletedProcess:
        main = "from torch.distributed.run import main; main()"
        return subprocess.run([python, "-c", main, "--standalone", "--nproc_per_node=2", "--no-python", python, *words], cwd=again,
                              capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=LONGEST)

    shutil.rmtree(again / "check_point")
    done = torchrun(str(ROOT / "train_classifier.py"), *TRAIN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("share the work") == done.stdout.count("val acc best/last") == 1
    assert [path.name for path in again.glob(MODEL)] == ["net_build_0_b.t7"]
    done = torchrun(str(ROOT / "repair.py"), *REPAIR, "--p_budget", "200")
    assert done.returncode == 1 and done.stderr.count("error: ") == 1 and "exitcode  : 2" in done.stderr, done.stderr
