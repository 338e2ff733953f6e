"""A grid by cells: what CELL chooses, how a Slurm job of one ends and begins again, and both in a real Slurm of one machine."""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import LONGEST, ROOT, begun, copy_code, read_rows

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the scripts are for a POSIX shell")
LISTS = {"MODEL": "MobileNet resnet18", "MODEL_NO": "0 1", "SOLUTION": "mcp", "RANDOM_SEED": "10 20", "lam": "1 2", "p_budget": "5"}
GIVEN = ["--model2test_path", "given"]  # nothing is trained
SETTINGS = {"DATASET": "small", "FE": "model2test", "PYTHON": "./python"}
# a stand-in for Python, which notes its calls, and with a seed that begins with 2 takes long until a signal has it save a state; a
# second signal is noted too, since Python would end on it without a state
STAND_IN = """#!/bin/sh
exec 2>/dev/null  # the shell tells the end of its sleep
seed=${*##*--manualSeed } seed=${seed%% *} i=0 asked=''
trap 'echo "$seed signalled" >> told; asked=1' TERM
echo "$*" >> calls
case "$*" in *--check*) exit ;; esac
echo "$seed began" >> told
case $seed in 2*) while [ $i -lt 3000 ] && [ -z "$asked" ] && ! [ -e "state_$seed" ]; do i=$((i + 1)); sleep 0.1; done ;; esac
if [ -n "$asked" ]; then
    for i in 1 2 3; do sleep 0.1; done
    touch "state_$seed"
    echo "$seed saved" >> told
    exit 143
fi
echo "$seed ended" >> told
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """The scripts, with a stand-in for Python, and one for scontrol, which notes its calls."""
    for file in (*ROOT.glob("*.sh"), *ROOT.glob("cluster/*.sbatch")):
        (tmp_path / file.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / file.relative_to(ROOT))
    (tmp_path / "bin").mkdir()
    for name, text in (("python", STAND_IN), ("bin/scontrol", '#!/bin/sh\necho "$*" >> scontrol\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def environment(**variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    return inherited | SETTINGS | variables


def sh(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(["sh", *words], cwd=folder, env=environment(**variables), capture_output=True, text=True)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def wait_for(told: Path, line: str) -> None:
    until(lambda: line in lines(told), LONGEST, lambda: lines(told))


def until(what: Callable[[], bool], seconds: float, state: Callable[[], object]) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, state()
        time.sleep(0.05)


# --- cells

def test_a_list_has_a_line_for_each_combination_in_the_order_in_which_all_of_them_run(folder):
    done = sh(folder, "repair.sh", **LISTS, CELL="list")
    cells = [dict(setting.split("=") for setting in line.split()) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and done.stderr == "" and not (folder / "calls").exists()
    assert [(cell["MODEL"], cell["MODEL_NO"], cell["RANDOM_SEED"], cell["lam"]) for cell in cells] == [
        (model, number, seed, weight) for model in ("MobileNet", "resnet18") for number in "01" for seed in ("10", "20")
        for weight in "12"]
    assert {(cell["SOLUTION"], cell["p_budget"], cell["lr"], cell["tao"]) for cell in cells} == {("mcp", "5", "default", "auto")}


def test_the_cells_one_by_one_are_the_whole_grid(folder):
    lists = LISTS | {"RANDOM_SEED": "10 30", "p_budget": "", "tao": "avg 0.2"}
    assert sh(folder, "baseline.sh", *GIVEN, "--no_replay", **lists).returncode == 0
    whole = lines(folder / "calls")
    (folder / "calls").unlink()
    assert len(whole) == len(set(whole)) == 2 * 2 * 2 * 2 * 2
    for cell in range(0, len(whole), 5):
        done = sh(folder, "baseline.sh", *GIVEN, "--no_replay", **lists, CELL=str(cell))
        assert done.returncode == 0, done.stderr
    assert lines(folder / "calls") == whole[::5]


def test_a_cell_trains_its_own_model_alone_after_a_check_of_its_own_solution(folder):
    done = sh(folder, "baseline.sh", **LISTS | {"SOLUTION": "mcp gini", "RANDOM_SEED": "10 30"}, CELL="21")  # resnet18, A, gini, 10, 2
    assert done.returncode == 0, done.stderr
    check, train, repair = lines(folder / "calls")
    assert check.startswith("repair.py ") and "--solution gini" in check and check.endswith("--check")
    assert train.startswith("train_classifier.py ") and "--model resnet18" in train and "--class_weight 0" in train
    assert repair.startswith("repair.py ") and "--solution gini" in repair and "--lam_ul 2" in repair and "--model_number 0" in repair


@pytest.mark.parametrize("cell, part", [("16", "there is no cell 16; CELL=list sh repair.sh has 16, counted from 0"),
                                        ("four", "CELL is four"), ("-1", "CELL is -1"), ("08", "CELL is 08")])
def test_a_cell_that_is_not_there_ends_in_one_sentence_and_status_2(folder, cell, part):
    done = sh(folder, "repair.sh", *GIVEN, **LISTS, CELL=cell)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1 and part in done.stderr
    assert not (folder / "calls").exists()


@pytest.mark.parametrize("processes", ["2", "gpu"])
def test_processes_has_training_and_repair_run_by_torchrun_but_not_the_check(folder, processes):
    assert sh(folder, "baseline.sh", **LISTS, CELL="0", PROCESSES=processes).returncode == 0
    torchrun = f"-m torch.distributed.run --standalone --nproc_per_node={processes}"
    starts = ["repair.py --dataset small", f"{torchrun} train_classifier.py --", f"{torchrun} repair.py --dataset small"]
    assert [call.startswith(start) for call, start in zip(lines(folder / "calls"), starts)] == [True] * 3


def test_processes_that_are_no_number_end_in_one_sentence_and_status_2(folder):
    done = sh(folder, "baseline.sh", *GIVEN, **LISTS, PROCESSES="0")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "PROCESSES is 0" in done.stderr


# --- the job, outside of Slurm

TASK = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "RANDOM_SEED": "10 20"}
JOB = ["cluster/grid.sbatch", "baseline.sh", *GIVEN]


@contextlib.contextmanager
def job(folder: Path, **variables: str) -> Iterator[subprocess.Popen]:
    """A job of the block, with a process group of its own, as Slurm gives it."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with begun(["sh", *JOB], cwd=folder, env=environment(PATH=path, **variables), **pipes) as started:
        yield started


def test_a_job_runs_the_cell_of_its_number_or_all_without_an_array(folder):
    assert sh(folder, *JOB, **TASK | {"RANDOM_SEED": "10 30"}).returncode == 0
    assert lines(folder / "told") == ["30 began", "30 ended"]
    assert sh(folder, *JOB, SLURM_JOB_ID="9", RANDOM_SEED="40 50").returncode == 0
    assert lines(folder / "told")[2:] == ["40 began", "40 ended", "50 began", "50 ended"]


@pytest.mark.parametrize("words, part", [([], "not nothing"), (["tables.py"], "not tables.py"), (["repair.sh"], "root")])
def test_a_job_of_no_script_ends_in_one_sentence_and_status_2(tmp_path, words, part):
    done = sh(tmp_path, str(ROOT / "cluster/grid.sbatch"), *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and part in done.stderr


@pytest.mark.parametrize("variables, requeued", [(TASK, ["requeue 7_1"]), ({"SLURM_JOB_ID": "9", "RANDOM_SEED": "20"}, ["requeue 9"])])
def test_before_the_time_limit_the_cell_saves_its_state_and_is_requeued_by_its_own_number(folder, variables, requeued):
    with job(folder, **variables) as started:
        wait_for(folder / "told", "20 began")
        started.send_signal(signal.SIGUSR1)
        out, err = started.communicate(timeout=LONGEST)
    assert started.returncode == 143 and "go on later" in out and err == ""
    assert lines(folder / "told") == ["20 began", "20 signalled", "20 saved"] and lines(folder / "scontrol") == requeued


def test_a_job_that_slurm_ends_waits_for_the_state_gets_one_signal_and_is_not_requeued_by_itself(folder):
    with job(folder, **TASK) as started:
        wait_for(folder / "told", "20 began")
        os.killpg(started.pid, signal.SIGTERM)
        assert started.wait(timeout=LONGEST) == 143
    assert lines(folder / "told") == ["20 began", "20 signalled", "20 saved"] and not (folder / "scontrol").exists()


def test_a_job_that_began_too_often_is_not_requeued(folder):
    with job(folder, **TASK, SLURM_RESTART_COUNT="3", RESTARTS="3") as started:
        wait_for(folder / "told", "20 began")
        started.send_signal(signal.SIGUSR1)
        _, err = started.communicate(timeout=LONGEST)
    assert started.returncode == 2 and err.count("\n") == 1 and "3 times already" in err and not (folder / "scontrol").exists()


# --- in Slurm

class Slurm:
    """A Slurm of this machine, in which jobs are submitted as the README of cluster/ says, in the folder of a block."""

    def __init__(self, at: Path, folder: Path, **variables: str):
        self.folder = folder
        self.variables = environment(SLURM_CONF=str(at / "slurm.conf"), **variables)

    def call(self, *words: str) -> str:
        done = subprocess.run(words, cwd=self.folder, env=self.variables, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.strip()

    def submit(self, *words: str) -> str:
        """The number of a job or array."""
        return self.call("sbatch", "--parsable", *words)

    def show(self, task: str) -> dict[str, str]:
        told = self.call("scontrol", "show", "job", "--oneliner", task)
        return dict(pair.split("=", 1) for pair in told.splitlines()[0].split() if "=" in pair)

    def wait(self, *arrays: str, seconds: float) -> None:
        """Until all tasks of the arrays have ended."""
        until(lambda: not self.call("squeue", "--noheader", f"--jobs={','.join(arrays)}"), seconds, lambda: self.call("squeue"))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Path]:
    """The folder of a Slurm that runs; skipped where it is not installed."""
    sbin = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=sbin)]
    if missing:
        pytest.skip(f"Slurm is not installed ({', '.join(missing)}): apt install slurmctld slurmd slurm-client munge")
    folder = tmp_path_factory.mktemp("slurm")
    command = ["sh", str(ROOT / "tests/slurm.sh"), str(folder), "sh", "-c", "echo ready; exec cat"]  # it ends with its standard input
    with begun(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(PYTHON=sys.executable)) as running:
        assert running.stdout.readline() == "ready\n"
        yield folder
        running.stdin.close()
    assert running.returncode == 0


def test_tasks_of_a_real_array_that_are_requeued_or_at_their_time_limit_go_on(slurm, folder):
    here = Slurm(slurm, folder, RANDOM_SEED="10 20 21")
    array = here.submit("--array=0-2", *JOB)
    wait_for(folder / "told", "20 began")
    here.call("scontrol", "requeue", f"{array}_1")
    wait_for(folder / "told", "21 began")
    here.call("scancel", "--signal=USR1", "--batch", f"{array}_2")  # as comes before a time limit
    here.wait(array, seconds=LONGEST)
    assert Counter(lines(folder / "told")) == Counter(["10 began", "10 ended", *(
        f"{seed} {what}" for seed in (20, 21) for what in ("began", "signalled", "saved", "began", "ended"))])
    for task, restarts in enumerate("011"):
        shown = here.show(f"{array}_{task}")
        assert (shown["JobState"], shown["ExitCode"], shown["Restarts"]) == ("COMPLETED", "0:0", restarts)
    assert "go on later" in (folder / f"slurm-{array}_2.out").read_text()


@pytest.mark.long
def test_a_real_time_limit_has_the_task_save_and_go_on(slurm, folder):
    here = Slurm(slurm, folder, RANDOM_SEED="10 20")
    array = here.submit("--array=1", "--time=2", "--signal=B:USR1@30", *JOB)
    here.wait(array, seconds=300)
    assert lines(folder / "told") == ["20 began", "20 signalled", "20 saved", "20 began", "20 ended"]
    assert here.show(f"{array}_1")["JobState"] == "COMPLETED"


@pytest.mark.long
def test_six_digits_cells_of_which_one_is_requeued_while_it_runs_end_in_one_table(slurm, tmp_path, python):
    copy_code(tmp_path)
    here = Slurm(slurm, tmp_path, PYTHON=python, DATASET="digits", SOLUTION="mcp hybrid", RANDOM_SEED="10 20 30", epoch="2", epochs="2")
    cells = here.call("sh", "-c", "CELL=list sh repair.sh | wc -l")
    assert cells == "6"
    first = here.submit("--array=0", "cluster/grid.sbatch", "repair.sh")
    rest = here.submit("--array=1-5", f"--dependency=afterok:{first}", "cluster/grid.sbatch", "repair.sh")
    log = tmp_path / f"slurm-{rest}_4.out"
    until(lambda: log.exists() and "epoch  1/2" in log.read_text(), 600, lambda: here.call("squeue"))
    here.call("scontrol", "requeue", f"{rest}_4")
    here.wait(first, rest, seconds=600)
    shown = [here.show(f"{array}_{task}") for array, task in ((first, 0), *((rest, task) for task in range(1, 6)))]
    assert [(job["JobState"], job["Restarts"]) for job in shown] == [("COMPLETED", "1" if task == 4 else "0") for task in range(6)]
    rows = read_rows(tmp_path / "save/digits_MobileNet/results.csv")
    assert sorted((row["solution"], row["seed"]) for row in rows) == [
        (solution, seed) for solution in ("hybrid", "mcp") for seed in ("10", "20", "30")]
    assert "interrupted; the same command goes on from" in log.read_text() and not list(tmp_path.rglob("*.partial.t7"))
    table = here.call(python, "tables.py", "save/")
    assert "| mcp |" in table and "| hybrid |" in table and table.count("n=3") == 2
    print(log.read_text(), here.call("scontrol", "show", "job", "--oneliner", f"{rest}_4"), table, sep="\n")
