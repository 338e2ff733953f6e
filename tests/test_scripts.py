"""The shell scripts as users call them, in a copy of the repository: what they set up, train, repair, skip and refuse."""
import csv
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import LONGEST, ROOT, begun, copy_code, write_small
from hybridrepair.images.registry import DATASETS, Defaults

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the scripts are for a POSIX shell")


@pytest.fixture(scope="module")
def clone(tmp_path_factory, python) -> Path:
    """The code of the repository, without data and results, with the dataset `small`."""
    folder = tmp_path_factory.mktemp("clone")
    copy_code(folder)
    write_small(folder / "dataset", pool=100)
    (folder / "python").symlink_to(python)
    return folder


def sh(clone: Path, script: str, *flags: str, **variables: str) -> subprocess.CompletedProcess:
    """The script's result, with the variables set, in the tests' interpreter unless PYTHON is among them."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHON")}
    settings = {"PYTHON": str(clone / "python"), "DATASET": "small", "FE": "model2test", "epoch": "2", "epochs": "1"} | variables
    return subprocess.run(["sh", script, *flags], cwd=clone, env=inherited | settings, capture_output=True, text=True)


def trained(clone: Path) -> Path:
    """The folder of models, in which Model A is the only one of MobileNet: tests may run in any order, and share the folder."""
    assert not sh(clone, "train.sh", "--if_missing", MODEL_NOS="0").returncode
    folder = clone / "check_point/small/ckpt_bias"
    (folder / "MobileNet_2_b.t7").unlink(missing_ok=True)
    return folder


def rows(clone: Path, name: str = "MobileNet") -> list[dict[str, str]]:
    with open(clone / f"save/small_{name}/results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_repair_trains_what_is_missing_and_ends_with_the_headline_and_the_second_call_does_nothing(clone):
    first = sh(clone, "repair.sh", MODEL="ShuffleNetG2")
    assert first.returncode == 0, first.stderr
    assert "epoch   2/2" in first.stdout and (clone / "check_point/small/ckpt_bias/ShuffleNetG2_0_b.t7").exists()
    last = first.stdout.splitlines()[-1]
    assert last.startswith("T2 Acc before/after repair: ") and last.count("/") == 2
    second = sh(clone, "repair.sh", MODEL="ShuffleNetG2")
    assert "done already" in second.stdout and second.stdout.splitlines()[-1] == last
    assert "epoch" not in second.stdout and len(rows(clone, "ShuffleNetG2")) == 1


@pytest.mark.long
def test_two_grids_started_together_on_a_missing_model_train_and_repair_it_once(clone, tmp_path):
    clone = shutil.copytree(clone, tmp_path / "clone", ignore=shutil.ignore_patterns("check_point", "save"))
    command = f"MODEL=resnet18 RANDOM_SEED='10 20' DATASET=small FE=model2test epoch=2 epochs=1 PYTHON={clone}/python sh repair.sh"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, shell=True, cwd=clone, **pipes) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    out = "".join(each[0] for each in said)
    for once in ("val acc best/last", "fine-tuning the model under repair on its own train set"):
        assert out.count(once) == 1
    found = rows(clone, "resnet18")
    assert sorted(row["seed"] for row in found) == ["10", "20"]
    assert all(out.count(f"everything is in save/small_resnet18/{row['run']}") == 1 for row in found)
    assert not list(clone.rglob("*.partial.t7")) and not list(clone.rglob("*.tmp"))


def test_lists_make_a_run_for_each_combination_and_tables_one_table(clone):
    lists = {"SOLUTION": "random gini", "RANDOM_SEED": "10 20", "p_budget": "5"}
    done = sh(clone, "baseline.sh", "--save_path", "save/small_lists", **lists)  # others have rows of their own in the usual folder
    assert done.returncode == 0, done.stderr
    assert sorted((row["solution"], row["seed"]) for row in rows(clone, "lists")) == [
        ("gini", "10"), ("gini", "20"), ("random", "10"), ("random", "20")]
    table = subprocess.run([clone / "python", "tables.py", "save/small_lists"], cwd=clone, capture_output=True, text=True)
    assert "| gini |" in table.stdout and "n=2" in table.stdout


@pytest.mark.parametrize("flags, variable", [(["--fe", "model2test"], "FE"), (["--model_number=1"], "MODEL_NO"),
                                             (["--model2test_arch", "resnet18"], "MODEL"), (["--tao", "1"], "tao")])
def test_a_flag_that_a_variable_is_for_is_refused_before_anything_is_trained(clone, flags, variable):
    done = sh(clone, "repair.sh", *flags, MODEL="resnet18")
    assert done.returncode == 2 and done.stdout == "" and f"give the variable {variable} in place of" in done.stderr
    assert not (clone / "check_point/small/ckpt_bias/resnet18_0_b.t7").exists()


def test_a_model_in_the_published_folder_is_not_trained_again(clone):
    ours, folder = trained(clone), clone / "checkpoint/small/ckpt_bias"
    folder.mkdir(parents=True)
    shutil.copy(ours / "MobileNet_0_b.t7", folder / "MobileNet_2_b.t7")
    done = sh(clone, "baseline.sh", MODEL_NO="2", SOLUTION="random", p_budget="5")
    assert done.returncode == 0, done.stderr
    assert not (ours / "MobileNet_2_b.t7").exists() and "val acc" not in done.stdout
    shutil.rmtree(clone / "checkpoint")


def test_what_the_scripts_say_of_digits_is_what_the_registry_holds():
    digits, usual = DATASETS["digits"].defaults, Defaults()
    said = {name: (ROOT / name).read_text() for name in ("repair.sh", "baseline.sh", "train.sh")}
    for name in ("repair.sh", "baseline.sh"):
        for text in (f"empty: {usual.model_number} (digits: {digits.model_number})",
                     f"empty: {usual.p_budget:g} (digits: {digits.p_budget:g})",
                     f"empty: {usual.retrain_lr} (digits: {digits.retrain_lr})", f"empty: {usual.retrain_epoch}\n"):
            assert text in said[name]
    assert f"digits) number={digits.model_number} ;; *) number={usual.model_number} ;;" in (ROOT / "grid.sh").read_text()
    assert digits.retrain_epoch == usual.retrain_epoch and digits.fe == "model2test"
    assert f"empty: {usual.n_epochs} (digits: {digits.n_epochs})" in said["train.sh"]


def test_a_model_that_is_named_by_a_flag_is_not_trained_first(clone):
    ours = trained(clone)
    (clone / "given").mkdir(exist_ok=True)
    shutil.copy(ours / "MobileNet_0_b.t7", clone / "given/MobileNet_2_b.t7")
    done = sh(clone, "repair.sh", "--model2test_path", "given", "--save_path", "save/given", MODEL_NO="2", SOLUTION="random",
              p_budget="5")
    assert done.returncode == 0, done.stderr
    assert not (ours / "MobileNet_2_b.t7").exists() and "val acc" not in done.stdout


def test_defaults_are_the_published_ones(clone):
    done = sh(clone, "repair.sh", DATASET="small", p_budget="5", RANDOM_SEED="30")
    assert done.returncode == 0, done.stderr
    assert any("auto_tao=1" in row["settings"] and row["seed"] == "30" for row in rows(clone))
    done = sh(clone, "baseline.sh", FE="", SOLUTION="coreset", p_budget="5", RANDOM_SEED="30")
    assert done.returncode == 0, done.stderr  # which needs no feature extractor
    assert any(row["solution"] == "coreset" and "fe=model2test" in row["settings"] for row in rows(clone))


def test_flags_are_passed_on(clone):
    assert "done already" not in sh(clone, "baseline.sh", "--force", SOLUTION="gini", p_budget="5").stdout


@pytest.mark.parametrize("script, first", [("baseline.sh", "repair.py"), ("train.sh", "train_classifier.py"),
                                            ("repair.sh", "train_classifier.py")])
@pytest.mark.parametrize("name, status", [("INT", 130), ("TERM", 143)])
def test_a_signal_ends_a_whole_grid_after_the_command_that_runs_has_ended(tmp_path, script, first, name, status):
    for file in ("baseline.sh", "repair.sh", "train.sh", "grid.sh", "setup.sh"):
        shutil.copy(ROOT / file, tmp_path)
    python = tmp_path / "python"  # which notes its calls, and sends a signal to the whole group in the first that would train
    python.write_text(f"""#!/bin/sh
trap 'sleep 0.2; echo ended >> calls; exit {status}' {name}
echo "$1" >> calls
case "$*" in *--check*) ;; *{first}*) kill -{name} 0 ;; esac
""")
    python.chmod(0o755)
    flags = ["--model2test_path", "given"] if script == "baseline.sh" else []
    variables = {"PYTHON": str(python), "DATASET": "small", "FE": "model2test", "MODEL_NO": "0", "p_budget": "1 5"}
    done = subprocess.run(["sh", script, *flags], cwd=tmp_path, capture_output=True, text=True, start_new_session=True,
                          env=os.environ | variables)
    calls = (tmp_path / "calls").read_text().split()
    assert done.returncode == status and calls[-2:] == [first, "ended"] and calls.count(first) == 1, (calls, done.stderr)


@pytest.mark.parametrize("name, status", [("INT", 130), ("TERM", 143), ("HUP", 129)])
@pytest.mark.parametrize("first", ["train_classifier.py", "repair.py"])
def test_a_signal_to_the_table_of_results_reaches_the_cell_that_runs_and_waits_for_its_state(tmp_path, first, name, status):
    (tmp_path / "results").mkdir()
    for file in ("baseline.sh", "repair.sh", "train.sh", "grid.sh", "setup.sh", "results/grid.sh"):
        shutil.copy(ROOT / file, tmp_path / file)
    python = tmp_path / "python"  # which notes its calls, and takes long in the first that is no check
    python.write_text(f"""#!/bin/sh
trap 'sleep 0.5; echo ended >> calls; exit 143' TERM
echo "$1" >> calls
case "$*" in *--check*) ;; *{first}*) echo long >> calls; i=0; while [ $i -lt 300 ]; do i=$((i + 1)); sleep 0.1; done ;; esac
""")
    python.chmod(0o755)
    variables = {"PYTHON": str(python), "PARTS": "small:0", "FE": "model2test"}
    calls = tmp_path / "calls"
    with begun(["sh", "results/grid.sh"], cwd=tmp_path, env=os.environ | variables) as grid:
        while grid.poll() is None and not (calls.exists() and "long" in calls.read_text()):
            time.sleep(0.05)
        os.killpg(grid.pid, signal.Signals[f"SIG{name}"])
        assert grid.wait(timeout=LONGEST) == status
    assert calls.read_text().split()[-3:] == [first, "long", "ended"]


def test_the_table_of_results_checks_a_cell_before_it_trains_and_has_its_own_seeds(tmp_path):
    (tmp_path / "results").mkdir()
    for file in ("baseline.sh", "repair.sh", "train.sh", "grid.sh", "setup.sh", "results/grid.sh"):
        shutil.copy(ROOT / file, tmp_path / file)
    python = tmp_path / "python"  # which notes its calls, and leaves no row, as beside another process
    python.write_text('#!/bin/sh\necho "$*" >> calls\ncase "$*" in *coreset*--check*) exit 2 ;; esac\n')
    python.chmod(0o755)
    variables = {"PYTHON": str(python), "PARTS": "small:0", "FE": "model2test", "RANDOM_SEED": "1 2", "PRETRAIN_FE": "1"}

    def grid(**more: str) -> subprocess.CompletedProcess:
        return subprocess.run(["sh", "results/grid.sh"], cwd=tmp_path, capture_output=True, text=True,
                              env=os.environ | variables | more)

    done = grid()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert (done.returncode, done.stderr) == (2, "") and "coreset" in calls[-1] and "--check" in calls[-1]
    assert {call.split("--manualSeed ")[1].split()[0] for call in calls if "--manualSeed" in call} == {"10"}
    assert [call.split()[0] for call in calls[:3]] == ["repair.py", "train_classifier.py", "repair.py"] and "--check" in calls[0]
    assert not any("pretrain_moco" in call for call in calls)
    done = grid(MINUTES="1.5")
    assert (done.returncode, done.stderr) == (2, "error: MINUTES is 1.5; give whole minutes\n")


@pytest.fixture
def noted(tmp_path):
    """A function that runs a script with a Python that does nothing, and refuses a tau of foo; it gives that one's calls too."""
    for file in ("baseline.sh", "repair.sh", "train.sh", "grid.sh", "setup.sh"):
        shutil.copy(ROOT / file, tmp_path)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$*" >> calls\necho said\ncase "$*" in *--tao\\ foo*) exit 2 ;; esac\n')
    python.chmod(0o755)

    def call(*flags: str, script: str = "repair.sh", **variables: str) -> tuple[subprocess.CompletedProcess, list[str]]:
        (tmp_path / "calls").write_text("")
        given = {"PYTHON": str(python), "DATASET": "small", "FE": "model2test", "MODEL_NO": "0 1", "p_budget": "1 5"}
        done = subprocess.run(["sh", script, *flags], cwd=tmp_path, capture_output=True, text=True,
                              env=os.environ | given | variables)
        return done, (tmp_path / "calls").read_text().splitlines()
    return call


def test_each_value_of_the_lists_is_checked_before_anything_is_trained(noted):
    done, calls = noted(tao="0.1 foo")
    assert done.returncode == 2 and all(call.startswith("repair.py") and call.endswith("--check") for call in calls)
    assert len(calls) == 2 and "--tao foo" in calls[1] and done.stdout == ""
    done, calls = noted(tao="0.1 0.2")
    checks = [call for call in calls if call.endswith(" --check")]
    assert done.returncode == 0 and calls[:4] == checks  # the first cell, and those with another tau, budget and model
    assert [call.split()[0] for call in calls[4:]] == 2 * ["train_classifier.py", *4 * ["repair.py"]]
    assert calls[4].split("--class_weight ")[1][0] == "0" and calls[9].split("--class_weight ")[1][0] == "1"
    assert done.stdout == "said\n" * 10


@pytest.mark.parametrize("place, dataset, number", [
    ("check_point", "small", 0), ("check_point", "digits", 2), ("checkpoint", "small", 0)])
def test_of_a_model_that_is_there_no_check_is_made(noted, tmp_path, place, dataset, number):
    folder = tmp_path / place / dataset / "ckpt_bias"
    folder.mkdir(parents=True)
    (folder / f"MobileNet_{number}_b.t7").touch()
    done, calls = noted(DATASET=dataset, MODEL_NO="", p_budget="1")
    assert done.returncode == 0 and [call.split()[0] for call in calls] == ["train_classifier.py", "repair.py"]
    assert "--check" not in calls[1] and noted(DATASET="other", MODEL_NO="", p_budget="1")[1][0].endswith("--check")


def test_a_check_that_is_asked_for_trains_and_repairs_nothing(noted):
    done, calls = noted("--check", tao="0.1 0.2")
    assert done.returncode == 0 and done.stdout == "said\n" * 4
    assert len(calls) == 4 and all(call.startswith("repair.py") and call.endswith("--check") for call in calls)


def test_a_missing_model_is_trained_with_the_flags_on_images_and_machine_that_it_is_repaired_with(noted):
    done, calls = noted("--img_size", "64", "--force", "--skip_bad", "--device=cpu", "--retrain_lr", "1", MODEL_NO="0")
    (training,) = (call for call in calls if call.startswith("train_classifier.py"))
    assert done.returncode == 0 and training.endswith("--class_weight 0 --if_missing --img_size 64 --skip_bad --device=cpu")


def test_flags_of_a_training_go_to_the_feature_extractor_where_they_mean_the_same_or_nothing_else_is_trained(noted):
    flags = ("--if_missing", "--device", "cpu", "--skip_bad", "--save_path", "logs", "--save_every=5", "--force", "--compile")
    done, calls = noted(*flags, script="train.sh", PRETRAIN_FE="1", MODEL_NOS="0", FE_FLAGS="--dim 8")
    assert done.returncode == 0 and calls[0].startswith("train_classifier.py") and calls[0].endswith(" ".join(flags))
    assert calls[1].startswith("pretrain_moco.py")
    assert calls[1].endswith("--manualSeed 10 --dim 8 --force --device cpu --skip_bad --save_every=5 --compile")
    done, calls = noted("--arch", "resnet18", script="train.sh", PRETRAIN_FE="1", MODEL_NOS="")
    assert done.returncode == 0 and len(calls) == 1 and calls[0].endswith("--manualSeed 10 --arch resnet18")


@pytest.mark.parametrize("script, entry", [("repair.sh", "repair"), ("baseline.sh", "repair"), ("train.sh", "train_classifier")])
def test_help_trains_nothing(noted, script, entry):
    for flag in ("-h", "--help"):
        done, calls = noted("--force", flag, script=script)
        assert done.returncode == 0 and calls == [f"{entry}.py --help"]


@pytest.mark.parametrize("script, variables, told", [
    ("train.sh", {"PRETRAIN_FE": "yes"}, "PRETRAIN_FE is yes; give 1"), ("train.sh", {"RANDOM_SEED": "10 20"}, "takes one seed"),
    ("repair.sh", {"RANDOM_SEED": " "}, "one of the lists in repair.sh is blank"), ("baseline.sh", {"SOLUTION": "\t"}, "is blank"),
    ("repair.sh", {"PROCESSES": "0"}, "PROCESSES is 0; give the number"), ("train.sh", {"PROCESSES": "many"}, "PROCESSES is many"),
    ("repair.sh", {"PYTHON": "/none/python"}, "PYTHON is /none/python, which cannot be run"),
    ("train.sh", {"PYTHON": "python3 -u"}, "PYTHON is python3 -u, which cannot be run")])
def test_a_variable_that_cannot_be_followed_is_told_before_anything_runs(noted, script, variables, told):
    done, calls = noted(script=script, **variables)
    assert done.returncode == 2 and not calls and done.stdout == ""
    assert told in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--sel_l_data", "--sel_u_data"])
def test_half_of_a_solution_is_for_repair_py(noted, flag):
    done, calls = noted(flag)
    assert done.returncode == 2 and not calls and "call repair.py for one of them alone" in done.stderr


@pytest.mark.parametrize("tao, settings", [("0.2", "tao=0.2"), ("auto", "auto_tao=1"), ("avg", "avg_tao=1")])
def test_tao_is_a_number_or_a_rule(clone, tao, settings):
    done = sh(clone, "repair.sh", tao=tao)
    assert done.returncode == 0, done.stderr
    assert any(settings in row["settings"] for row in rows(clone))


def test_train_makes_models_a_to_c_and_the_feature_extractor_which_repair_then_uses(clone):
    flags = "--arch resnet18 --dim 8 --mlp_dim 16 --n_epochs 1 --batch_size 64 --n_images 128"
    done = sh(clone, "train.sh", epoch="1", MODEL_NOS="1 2", PRETRAIN_FE="1", FE_FLAGS=flags)
    assert done.returncode == 0 and done.stderr == "", done.stderr  # nor a warning
    folder = clone / "check_point/small"
    assert {path.name for path in (folder / "ckpt_bias").glob("MobileNet_[12]_b.t7")} == {"MobileNet_1_b.t7", "MobileNet_2_b.t7"}
    assert (folder / "ckpt_pretrained_mocov3/checkpoint.pth.tar").exists()
    repaired = sh(clone, "repair.sh", FE="", MODEL_NO="1")
    assert repaired.returncode == 0, repaired.stderr
    assert any("fe=mocov3" in row["settings"] for row in rows(clone))


def test_missing_features_are_told_before_anything_is_trained_and_name_the_call(clone):
    shutil.copytree(clone / "dataset/small", clone / "dataset/other", dirs_exist_ok=True)
    done = sh(clone, "repair.sh", DATASET="other", FE="")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "DATASET=other PRETRAIN_FE=1 sh train.sh" in done.stderr
    assert not (clone / "check_point/other").exists()


def test_a_pool_without_labels_is_told_before_anything_is_trained(clone):
    folder = clone / "dataset/unlabelled"
    shutil.copytree(clone / "dataset/small", folder, dirs_exist_ok=True)
    labels = np.load(folder / "labels.npy")
    labels[340:] = -1  # the pool
    np.save(folder / "labels.npy", labels)
    done = sh(clone, "baseline.sh", DATASET="unlabelled", SOLUTION="mcp", p_budget="5")
    assert done.returncode == 2 and done.stdout == "" and "has no labels of pool images" in done.stderr
    assert not (clone / "check_point/unlabelled").exists()


@pytest.mark.parametrize("variables, part", [({"DATASET": "smal"}, "dataset smal is unknown"), ({"MODEL": "VGG"}, "VGG"),
                                             ({"SOLUTION": "mpc"}, "mpc"), ({"p_budget": "0"}, "budget of 0 percent"),
                                             ({"MODEL_NO": "3"}, "3")])
def test_wrong_variables_end_in_one_sentence_and_status_2(clone, variables, part):
    done = sh(clone, "baseline.sh", **{"p_budget": "5"} | variables)
    assert done.returncode == 2 and part in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1


def test_setup_makes_an_environment_installs_into_it_once_and_goes_on_after_an_interruption(tmp_path):
    shutil.copy(ROOT / "setup.sh", tmp_path)
    (tmp_path / "requirements.txt").write_text("")  # nothing that would need a network
    call = 'set -eu; . ./setup.sh; "$PYTHON" -c "import sys; print(sys.prefix)"'

    def prefix(environment: str | None = None) -> tuple[str, str]:
        names = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHON")
        inherited = {name: value for name, value in os.environ.items() if name not in names}
        done = subprocess.run(["sh", "-c", call], cwd=tmp_path, capture_output=True, text=True,
                              env=inherited | ({"VIRTUAL_ENV": environment} if environment else {}))
        assert done.returncode == 0, done.stderr
        *said, path = done.stdout.splitlines()
        return path, " ".join(said)

    (tmp_path / ".venv/bin").mkdir(parents=True)  # left by an interrupted call
    path, said = prefix()
    assert Path(path).samefile(tmp_path / ".venv") and "installing requirements.txt into .venv" in said
    assert prefix() == (path, "")
    (tmp_path / "requirements.txt").write_text("# another list\n")
    assert "installing" in prefix()[1]
    shutil.copytree(tmp_path / ".venv", tmp_path / "active", symlinks=True)
    assert Path(prefix(str(tmp_path / "active"))[0]).samefile(tmp_path / "active")
    (tmp_path / ".venv/bin/python").unlink()
    (tmp_path / ".venv/bin/python").symlink_to("/none/python")  # that the system had before it was renewed
    assert "installing" in prefix()[1] and prefix() == (path, "")


def test_an_environment_of_others_that_has_all_is_used_although_nothing_can_be_noted_in_it(tmp_path):
    shutil.copy(ROOT / "setup.sh", tmp_path)
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "shared/bin").mkdir(parents=True)
    python = tmp_path / "shared/bin/python"
    python.write_text('#!/bin/sh\ncase "$*" in *version_info*) echo 3.11 ;; esac\n')
    python.chmod(0o755)
    note = '(umask 777; ln -s /none/none "$VIRTUAL_ENV/hybridrepair-$(cksum < requirements.txt | cut -d " " -f 1)-3.11")'  # no root may
    done = subprocess.run(["sh", "-c", f'{note}; set -eu; . ./setup.sh; echo "went on with $PYTHON"'], cwd=tmp_path,
                          capture_output=True, text=True, env=os.environ | {"VIRTUAL_ENV": str(tmp_path / "shared"), "PYTHON": ""})
    assert done.returncode == 0 and f"went on with {python}" in done.stdout and done.stderr == ""


def test_setup_says_what_is_missing(tmp_path):
    shutil.copy(ROOT / "setup.sh", tmp_path)
    (tmp_path / "requirements.txt").write_text("no-such-package-of-that-name @ file:///nowhere\n")
    inherited = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHON")}
    done = subprocess.run(["sh", "-c", ". ./setup.sh; echo went on"], cwd=tmp_path, env=inherited, capture_output=True, text=True)
    assert done.returncode == 2 and "went on" not in done.stdout
    assert "requirements.txt could not be installed into .venv" in done.stderr.splitlines()[-1]
