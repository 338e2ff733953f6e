"""Calls and files of the published code."""
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

import repair
import selection
from hybridrepair.annotation.oracle import budget_of
from hybridrepair.base import checkpoint, errors
from small import MODEL_FILE, folder_of, refused, rows, run

PUBLISHED = ["--dataset", "small", "--manualSeed", "10", "--model2test_arch", "MobileNet", "--model2test_path",
             "./checkpoint/small/ckpt_bias/MobileNet_0_b.t7", "--model_number", "0", "--step", "100", "--p_budget", "5",
             "--save_path", "save/2022-07-18/small_MobileNet_100", "--data_path", "data", "--solution", "TTA", "--retrain_lr", "0.001",
             "--retrain_weightdecay", "5e-4", "--retrain_epoch", "1", "--retrain", "--exp", "0", "--eps", "0.3", "--lam_ul", "100",
             "--min_samples", "3", "--fe", "model2test", "--cluster", "hybrid", "--avg_clustersize", "10", "--tao", "0.1",
             "--sel_u_data", "--u_weight", "--auto_tao", "--sel_l_data"]


def test_a_published_call_ends_in_the_call_of_repair_which_then_runs_with_published_files(field, capsys, monkeypatch):
    shutil.move("check_point", "checkpoint")
    monkeypatch.setattr("sys.argv", ["selection.py", *PUBLISHED])
    with pytest.raises(SystemExit) as stop:
        errors.run(lambda: selection.main(selection.parse_args()))
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.count("\n") == 1
    call = shlex.split(message[message.index("python repair.py") + len("python repair.py"):])
    repair.main(repair.parse_args(call))
    (row,) = rows("save/2022-07-18/small_MobileNet_100")
    assert row["solution"] == "hybrid" and row["tau"] == row["tau_auto"] and not Path("check_point").exists()


def test_a_feature_extractor_in_the_published_folder_is_found(field, capsys):
    message = refused(capsys, "--fe", "mocov3")
    assert "no feature extractor check_point/small" in message
    published = Path("checkpoint/small/ckpt_pretrained_mocov3/checkpoint.pth.tar")
    published.parent.mkdir(parents=True)
    checkpoint.save(published, {"state_dict": {}})
    assert f"checkpoint {published} does not hold" in refused(capsys, "--fe", "mocov3")  # it is read


def test_files_in_the_published_folder_are_used_where_ours_has_none(field, capsys):
    shutil.move("check_point", "checkpoint")
    train = Path("checkpoint/small/ckpt_bias/biased_dataset/0/train.npy")
    np.save(train, np.load(train)[::-1])  # published sets are in the order of drawing
    run("--solution", "random")
    assert len(rows()) == 1 and not Path("check_point").exists()
    assert "drawn as for a model" not in capsys.readouterr().out


def test_a_biased_set_that_has_to_be_drawn_is_told(field, capsys):
    shutil.rmtree("check_point/small/ckpt_bias/biased_dataset")
    run("--solution", "random")
    told = [line for line in capsys.readouterr().out.splitlines() if "drawn as for a model of train.sh" in line]
    assert len(told) == 1 and "biased_dataset/0/train.npy" in told[0] and told[0].endswith("; the checkpoint names the same set")
    Path("elsewhere").mkdir()
    shutil.copy(MODEL_FILE, "elsewhere/mine.t7")
    run("--solution", "random", "--model2test_path", "elsewhere/mine.t7", "--save_path", "mine")
    assert "into mine/biased_dataset/0" in capsys.readouterr().out and not Path("elsewhere/biased_dataset").exists()
    drawn = [np.load(Path(folder) / "biased_dataset/0/train.npy").tolist() for folder in ("mine", "save/small_MobileNet")]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 120


@pytest.mark.parametrize("made, told", [({"train": "0123456789abcdef"}, "; the checkpoint names another set"), ({}, ""), (None, "")])
def test_a_drawn_set_is_compared_with_the_one_that_the_checkpoint_names(field, capsys, made, told):
    shutil.rmtree("check_point/small/ckpt_bias/biased_dataset")
    checkpoint.save(Path(MODEL_FILE), checkpoint.load(Path(MODEL_FILE)) | {"settings": made})
    run("--solution", "random")
    assert f"into save/small_MobileNet/biased_dataset/0{told}\n" in capsys.readouterr().out


def test_a_repaired_model_is_repaired_again_with_the_train_images_of_the_first_time(field):
    train = Path("check_point/small/ckpt_bias/biased_dataset/0/train.npy")
    np.save(train, np.load(train)[5:])  # of the user's own
    run("--solution", "random")
    folder = folder_of(rows()[0])
    shutil.rmtree("check_point/small/ckpt_bias/biased_dataset")
    run("--solution", "random", "--model2test_path", str(folder / "MobileNet_0_b_repaired.t7"), "--save_path", "second")
    again = np.load(folder_of(rows("second")[0], "second") / "biased_dataset/0/train.npy")
    assert len(again) == 115 and not (folder / "biased_dataset/0/val.npy").exists()


@pytest.mark.parametrize("change", ["a label of T2", "an image of the pool", "mean", "what is replayed"])
def test_a_run_on_other_data_is_not_taken_for_done_and_no_baseline_is(field, capsys, change):
    run("--solution", "random")
    before = len(list(field.rglob("*_finetuned_*.t7")))
    if change == "mean":
        content = json.loads(Path("data/small/dataset.json").read_text())
        Path("data/small/dataset.json").write_text(json.dumps(content | {"mean": [0.5] * 3, "std": [0.5] * 3}))
    else:
        path = Path({"a label of T2": "data/small/labels.npy", "an image of the pool": "data/small/images.npy",
                     "what is replayed": "check_point/small/ckpt_bias/biased_dataset/0/train.npy"}[change])
        array = np.load(path)
        at = {"a label of T2": 230, "an image of the pool": 400, "what is replayed": 0}[change]
        array[at] = (array[at] + 1) % 4
        np.save(path, array[1:] if change == "what is replayed" else array)
    capsys.readouterr()
    run("--solution", "random")
    assert "done already" not in capsys.readouterr().out and len(rows()) == 2
    assert len(list(field.rglob("*_finetuned_*.t7"))) == before + (change in ("mean", "what is replayed"))


def test_published_flags_without_a_meaning_change_nothing(field, capsys):
    run("--solution", "random")
    run("--solution", "random", "--step", "100", "--latent_space_plot", "--tcp", "55")
    assert len(rows()) == 1 and "done already" in capsys.readouterr().out


@pytest.mark.parametrize("n, percent, budget", [
    (10_000, 0.57, 57), (10_000, 0.29, 29), (35_000, 1.0, 350), (847, 1.0, 8), (200, 0.5, 1)])
def test_a_budget_is_a_share_of_the_pool_in_exact_numbers(n, percent, budget):
    assert budget_of(percent, n) == budget
