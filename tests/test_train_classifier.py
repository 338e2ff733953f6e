"""train_classifier.py: what it leaves behind, that interruptions change nothing, and how it refuses."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

import train_classifier
from conftest import Slow, interrupted_at, picture, twice_at_once
from hybridrepair.base import checkpoint, version
from hybridrepair.base.errors import run
from hybridrepair.base.states import states_of
from hybridrepair.images import data
from hybridrepair.images.augment import Normalise
from hybridrepair.selection.uncertainty import predict
from hybridrepair.training import classifier
from hybridrepair.training.classifier import learning_rate
from hybridrepair.training.passes import accuracy
from mymodels import create

ROOT = Path(__file__).parents[1]
MODEL, FILE, PARTIAL = "ShuffleNetG2", "ShuffleNetG2_0_b.t7", "ShuffleNetG2_0_b.partial.t7"
EPOCHS = 4  # of the command below


def make_dataset(folder: Path) -> None:
    """Three classes of noise, told apart by their brightest channel."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 3
    images = rng.integers(0, 156, (96, 8, 8, 3))
    images[np.arange(96), :, :, labels] += 60
    np.save(folder / "images.npy", images.astype(np.uint8))
    np.save(folder / "labels.npy", labels)
    split = {"train": [0, 64], "val": [64, 80], "T2": [80, 88], "pool": [88, None]}
    (folder / "dataset.json").write_text(json.dumps({"split": split}))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data root with the dataset `tiny`."""
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def run_once(root, tmp_path_factory) -> tuple[Path, dict]:
    """The folder that an uninterrupted run leaves, and its result."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(root, folder)


@pytest.fixture
def whole(run_once) -> Path:
    return run_once[0]


@pytest.fixture
def expected(run_once) -> dict:
    return run_once[1]


def command(root: Path, folder: Path, *more: str) -> list[str]:
    return ["--dataset", "tiny", "--data_root", str(root), "--checkpoint_path", str(folder), "--save_path", f"{folder}_log",
            "--model", MODEL, "--device", "cpu", "--n_epochs", str(EPOCHS), "--batch_size", "16", "--save_every", "0", *more]


def train(root: Path, folder: Path, *more: str) -> dict:
    """The checkpoint that the command leaves and, as `last`, the weights after the last epoch, which may not be the best."""
    last, predict = {}, classifier.predict

    def look(model, *args):
        last.update(checkpoint.weights_of(model))
        return predict(model, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "predict", look)
        train_classifier.main(train_classifier.parse_args(command(root, folder, *more)))
    return checkpoint.load(folder / FILE) | {"last": last}


def refusal(capsys, *argv: str) -> str:
    """What the command says to stderr when it ends with status 2, which must be one sentence."""
    with pytest.raises(SystemExit) as stop:
        run(train_classifier.main, train_classifier.parse_args(list(argv)))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    return error


def same(one: dict, other: dict) -> bool:
    """Whether two results of `train` are equal to the last bit."""
    return (all(one[part].keys() == other[part].keys() for part in ("net", "last"))
            and all(value.equal(other[part][name]) for part in ("net", "last") for name, value in one[part].items())
            and all(one[name] == other[name] for name in ("acc", "epoch", "settings")))


def files_in(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock")


def save_nothing(model, normalise, images, val, args, path: Path, settings: dict, *more) -> dict:
    """A training that takes no time."""
    checkpoint.save(path, {"net": checkpoint.weights_of(model), "acc": 50.0, "epoch": 1, "settings": settings})
    return {"best_val_acc": 50.0, "best_epoch": 1, "last_val_acc": 50.0}


@pytest.mark.parametrize("more", [[], ["--if_missing"]])
def test_two_processes_train_a_model_once(root, tmp_path, monkeypatch, more):
    slow = Slow(tmp_path / "calls", save_nothing)
    monkeypatch.setattr(classifier, "train", slow)
    twice_at_once(lambda: train_classifier.main(train_classifier.parse_args(command(root, tmp_path / "out", *more))))
    assert slow.calls == 1 and checkpoint.load(tmp_path / "out" / FILE)["acc"] == 50


# --- what a run leaves

def test_a_tracker_is_told_all_epochs_also_those_before_an_interruption(root, tmp_path, monkeypatch):
    wandb = MagicMock(__spec__=True)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(classifier, "predict", interrupted_at(3, classifier.predict))
        train(root, tmp_path, "--report_to", "wandb")
    told = wandb.init.return_value
    assert [call.kwargs["step"] for call in told.log.call_args_list] == [1, 2]
    told.reset_mock()
    best = train(root, tmp_path, "--report_to", "wandb")
    lines = Path(f"{tmp_path}_log", f"{MODEL}_0_seed10.jsonl").read_text().splitlines()
    assert [call.args[0] for call in told.log.call_args_list] == [json.loads(line) for line in lines]
    assert wandb.init.call_args.kwargs["name"] == f"{MODEL}_0_seed10" and told.finish.called
    assert told.summary.update.call_args.args[0]["best_val_acc"] == best["acc"]


def test_the_log_has_a_line_for_each_epoch_and_a_picture_the_shares_of_classes(root, whole):
    folder = Path(f"{whole}_log")
    assert files_in(folder) == [f"{MODEL}_0_classes.png", f"{MODEL}_0_seed10.json", f"{MODEL}_0_seed10.jsonl"]
    made = json.loads((folder / f"{MODEL}_0_seed10.json").read_text())
    assert made["settings"] == checkpoint.load(whole / FILE)["settings"]
    assert "torch" in made["versions"] and made["project"] and made["seed"] == 10
    records = [json.loads(line) for line in (folder / f"{MODEL}_0_seed10.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, EPOCHS + 1))
    assert [record["lr"] for record in records] == pytest.approx([learning_rate(epoch, EPOCHS, 0.1) for epoch in range(1, EPOCHS + 1)])
    best = checkpoint.load(whole / FILE)
    assert records[best["epoch"] - 1]["val_acc"] == best["acc"] == records[-1]["best_val_acc"]
    with Image.open(folder / f"{MODEL}_0_classes.png") as image:
        assert image.format == "PNG" and image.width >= 600


def test_the_checkpoint_goes_to_check_point_whatever_the_save_path(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_classifier.main(train_classifier.parse_args([
        "--dataset", "tiny", "--data_root", str(root), "--save_path", "save/2022-07-18/tiny", "--model", MODEL, "--n_epochs", "1",
        "--manualSeed", "10", "--class_weight", "0", "--pretrained", "--shadow", "--device", "cpu"]))
    assert files_in(tmp_path) == [
        f"check_point/tiny/ckpt_bias/{FILE}", "check_point/tiny/ckpt_bias/biased_dataset/0/train.npy",
        "check_point/tiny/ckpt_bias/biased_dataset/0/val.npy", f"save/2022-07-18/tiny/{MODEL}_0_classes.png",
        f"save/2022-07-18/tiny/{MODEL}_0_seed10.json", f"save/2022-07-18/tiny/{MODEL}_0_seed10.jsonl"]


def test_a_network_of_others_is_trained_and_its_files_have_safe_names(root, tmp_path):
    train_classifier.main(train_classifier.parse_args(command(root, tmp_path, "--model", "torchvision:shufflenet_v2_x0_5")))
    weights = checkpoint.load(tmp_path / "torchvision_shufflenet_v2_x0_5_0_b.t7")["net"]
    models.shufflenet_v2_x0_5(num_classes=3).load_state_dict(weights)  # raises where keys or shapes differ


def test_published_biased_sets_are_trained_on(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    published = tmp_path / "checkpoint/tiny/ckpt_bias/biased_dataset/0"
    published.mkdir(parents=True)
    np.save(published / "train.npy", np.arange(40)[::-1])
    np.save(published / "val.npy", np.arange(9))
    train_classifier.main(train_classifier.parse_args([
        "--dataset", "tiny", "--data_root", str(root), "--model", MODEL, "--n_epochs", "1", "--device", "cpu"]))
    assert "40 train and 9 val images" in capsys.readouterr().out
    assert files_in(tmp_path / "check_point") == [f"tiny/ckpt_bias/{FILE}"]


def test_a_checkpoint_that_comes_with_the_project_stays_until_force_replaces_it(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classifier, "train", save_nothing)
    path = tmp_path / FILE
    checkpoint.save(path, {"net": {}, "settings": {"n_epochs": 100}, "shipped": "in half precision"})
    before = path.read_bytes()
    train_classifier.main(train_classifier.parse_args(command(root, tmp_path)))
    assert path.read_bytes() == before and f"{path} comes with the project: nothing to do" in capsys.readouterr().out
    train_classifier.main(train_classifier.parse_args(command(root, tmp_path, "--force")))
    assert checkpoint.load(path)["acc"] == 50 and not checkpoint.shipped(path)


def test_an_existing_checkpoint_is_left_alone_where_only_missing_ones_are_asked_for(root, whole, tmp_path, capsys):
    before = (whole / FILE).read_bytes()
    train_classifier.main(train_classifier.parse_args(command(root, whole, "--if_missing", "--n_epochs", "1")))
    assert (whole / FILE).read_bytes() == before and capsys.readouterr().out == ""
    train_classifier.main(train_classifier.parse_args(command(root, tmp_path, "--if_missing", "--n_epochs", "1")))
    assert (tmp_path / FILE).exists()


def test_digits_has_defaults_of_its_own_and_other_datasets_the_published_ones():
    digits, cifar10, folder = (train_classifier.parse_args(["--dataset", name]) for name in ("digits", "cifar10", "signs"))
    assert (digits.class_weight, digits.n_epochs, digits.lr) == (2, 100, 0.01)
    assert (cifar10.class_weight, cifar10.n_epochs, cifar10.lr) == (folder.class_weight, folder.n_epochs, folder.lr) == (0, 200, 0.1)
    assert train_classifier.parse_args(["--dataset", "digits", "--lr", "0.1", "--class_weight", "0"]).lr == 0.1


@pytest.mark.parametrize("absent", ["train", "val"])
def test_a_dataset_without_the_images_to_train_or_choose_by_is_refused(absent, tmp_path, capsys):
    make_dataset(tmp_path / "tiny")
    content = json.loads((tmp_path / "tiny/dataset.json").read_text())
    del content["split"][absent]
    (tmp_path / "tiny/dataset.json").write_text(json.dumps(content))
    message = refusal(capsys, *command(tmp_path, tmp_path / "out"))
    assert f"has no {absent} images" in message and not (tmp_path / "out").exists()


def test_the_size_of_a_folder_s_images_is_a_setting_where_it_is_not_the_usual_one(tmp_path, capsys):
    for number in range(12):
        for part in ("train", "val"):
            picture(tmp_path / "data/pets" / part / "cd"[number % 2] / f"{number}.png", (20 * number, 0, 0))
    flags = command(tmp_path / "data", tmp_path / "out", "--dataset", "pets", "--n_epochs", "1")
    train_classifier.main(train_classifier.parse_args([*flags, "--img_size", "16"]))
    assert checkpoint.load(tmp_path / "out" / FILE)["settings"]["img_size"] == 16
    assert "img_size" in refusal(capsys, *flags, "--img_size", "32")


def test_the_precision_is_a_setting_where_it_is_not_the_usual_one(root, whole, capsys):
    assert "precision" not in checkpoint.load(whole / FILE)["settings"]
    assert "precision" in refusal(capsys, *command(root, whole, "--precision", "bfloat16"))


def test_a_run_leaves_the_model_its_accuracy_and_epoch_and_the_biased_sets(root, whole):
    assert files_in(whole) == [FILE, "biased_dataset/0/train.npy", "biased_dataset/0/val.npy"]
    content = checkpoint.load(whole / FILE)
    assert set(content) == {"net", "acc", "epoch", "settings"} and 1 <= content["epoch"] <= EPOCHS
    tiny, model = data.load("tiny", root), create(MODEL, 3)
    checkpoint.fit(model, checkpoint.load(whole / FILE), whole / FILE)
    val = tiny.split["val"][np.load(whole / "biased_dataset/0/val.npy")]
    images, labels = (torch.from_numpy(part[val]) for part in (tiny.images, tiny.labels))
    assert len(val) == 12
    assert accuracy(predict(model, Normalise(tiny.mean, tiny.std), images, 5)[0], labels) == content["acc"]


def test_each_model_has_its_file_and_its_biased_sets_in_the_folder_of_the_dataset(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["--dataset", "tiny", "--data_root", str(root), "--model", MODEL, "--n_epochs", "1", "--class_weight", "1"]
    train_classifier.main(train_classifier.parse_args([*argv, "--device", "cpu"]))
    folder = tmp_path / "check_point/tiny/ckpt_bias"
    assert files_in(folder) == ["ShuffleNetG2_1_b.t7", "biased_dataset/1/class_weights.npy", "biased_dataset/1/train.npy",
                                "biased_dataset/1/val.npy"]
    out = capsys.readouterr().out
    assert out.startswith("ShuffleNetG2 B on tiny: 48 train and 12 val images\nepoch   1/1  loss ")
    assert out.endswith("saved check_point/tiny/ckpt_bias/ShuffleNetG2_1_b.t7\n")


def test_biased_sets_that_are_there_are_used(root, tmp_path, monkeypatch, capsys):
    seen, real = [], classifier.supervised_pass
    monkeypatch.setattr(classifier, "supervised_pass", lambda *args, **more: seen.append(args) or real(*args, **more))
    mine = {"train": np.array([3, 60, 7, 8, 40]), "val": np.array([15, 2])}
    for part, index in mine.items():
        (tmp_path / "biased_dataset/0").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"biased_dataset/0/{part}.npy", index)
    train(root, tmp_path, "--n_epochs", "1")
    assert all(np.load(tmp_path / f"biased_dataset/0/{part}.npy").tolist() == index.tolist() for part, index in mine.items())
    tiny = data.load("tiny", root)
    (_, _, _, images, everything, none, *_), = seen
    assert images.images.numpy().tobytes() == tiny.images[mine["train"]].tobytes()
    assert images.labels.tolist() == (mine["train"] % 3).tolist()
    assert everything.tolist() == [0, 1, 2, 3, 4] and len(none.labels) == 0
    assert "5 train and 2 val images" in capsys.readouterr().out


def test_the_best_epoch_is_kept_and_the_first_of_equals(root, tmp_path, monkeypatch, capsys):
    weights = []

    def look(model, *args):
        weights.append(checkpoint.weights_of(model))
        return predict(model, *args)

    accuracies = iter([10.0, 50.0, 50.0, 20.0, 20.0])  # of the epochs, then of the last once more
    monkeypatch.setattr(classifier, "predict", look)
    monkeypatch.setattr(classifier, "accuracy", lambda logits, labels: next(accuracies))
    content = train(root, tmp_path)
    assert (content["epoch"], content["acc"]) == (2, 50.0)
    assert all(value.equal(weights[1][name]) for name, value in content["net"].items())
    assert not content["net"]["conv1.weight"].equal(weights[2]["conv1.weight"])
    assert f"val acc best/last: 50.00 (epoch 2)/20.00; saved {tmp_path / FILE}\n" in capsys.readouterr().out


# --- how it trains

@pytest.mark.parametrize("first, last, rate", [(1, 100, 0.1), (101, 150, 0.01), (151, 200, 0.001)])
def test_learning_rate_of_200_epochs_falls_after_100_and_150(first, last, rate):
    assert [learning_rate(epoch, 200, 0.1) for epoch in range(first, last + 1)] == pytest.approx([rate] * (last - first + 1))


def test_an_epoch_trains_on_all_images_by_the_settings(root, tmp_path, monkeypatch):
    seen = []

    def look(model, optimizer, normalise, images, replay, chosen, smoothing, seed, epoch, size, **state):
        (group,) = optimizer.param_groups
        seen.append((epoch, group["lr"], group["momentum"], group["weight_decay"], len(replay), smoothing, seed, size))
        return torch.tensor(1.0), len(replay)

    monkeypatch.setattr(classifier, "supervised_pass", look)
    train(root, tmp_path, "--manualSeed", "7")
    assert [epoch for epoch, *_ in seen] == [1, 2, 3, 4]
    assert [rate for _, rate, *_ in seen] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert {tuple(rest) for _, _, *rest in seen} == {(0.9, 5e-4, 48, 0, 7, 16)}


# --- interruptions

def partial(root: Path, folder: Path, monkeypatch) -> None:
    """Leave the state after the first of EPOCHS epochs in `folder`."""
    real = classifier.supervised_pass

    def interrupted(*args, **more):
        if more["epoch"] == 2:
            raise KeyboardInterrupt
        return real(*args, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(classifier, "supervised_pass", interrupted)
        train(root, folder)
    assert (folder / PARTIAL).exists() and not (folder / FILE).exists()


def test_a_state_of_other_settings_is_lost_by_force_alone(root, tmp_path, monkeypatch, capsys):
    partial(root, tmp_path, monkeypatch)
    error = refusal(capsys, *command(root, tmp_path, "--manualSeed", "11", "--n_epochs", "1"))
    assert "n_epochs 4 instead of 1, seed 10 instead of 11" in error and "--force" in error
    assert PARTIAL in files_in(tmp_path)
    after = train(root, tmp_path, "--manualSeed", "11", "--n_epochs", "1", "--force")
    assert same(after, train(root, tmp_path / "other", "--manualSeed", "11", "--n_epochs", "1"))
    assert PARTIAL not in files_in(tmp_path)


@pytest.mark.parametrize("kept", [0, 8, 1_000_000])
def test_a_truncated_state_gives_one_sentence_that_names_it(root, tmp_path, monkeypatch, capsys, kept):
    partial(root, tmp_path, monkeypatch)
    for state in states_of(tmp_path / PARTIAL):
        content = state.read_bytes()
        assert len(content) > kept
        state.write_bytes(content[:kept])
    error = refusal(capsys, *command(root, tmp_path))
    assert f"{tmp_path / PARTIAL} cannot be read" in error and not (tmp_path / FILE).exists()


def test_the_state_is_written_no_more_often_than_asked_and_not_after_the_last_epoch(root, tmp_path, monkeypatch):
    written, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, path: written.append(Path(path).name) or replace(source, path))
    monkeypatch.setattr(classifier, "supervised_pass", lambda *args, **more: (torch.tensor(1.0), 48))
    train(root, tmp_path)
    assert [name for name in written if name in (PARTIAL, FILE)] == [PARTIAL] * (EPOCHS - 1) + [FILE]
    written.clear()
    train(root, tmp_path, "--save_every", "3600", "--force")
    assert PARTIAL not in written and written[-1] == FILE


# --- repetitions

def test_a_second_call_does_nothing(root, whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole, tmp_path / "out")
    before = (tmp_path / "out" / FILE).stat().st_mtime_ns
    monkeypatch.setattr(classifier, "supervised_pass", None)
    train(root, tmp_path / "out")
    assert "nothing to do" in capsys.readouterr().out
    assert (tmp_path / "out" / FILE).stat().st_mtime_ns == before and files_in(tmp_path / "out") == files_in(whole)


@pytest.mark.parametrize("more, difference", [
    (["--manualSeed", "11"], "seed 10 instead of 11"), (["--n_epochs", "3"], "n_epochs 4 instead of 3"),
    (["--batch_size", "8", "--manualSeed", "11"], "batch_size 16 instead of 8, seed 10 instead of 11"),
])
def test_a_result_of_other_settings_is_kept_and_force_is_named(root, whole, tmp_path, capsys, more, difference):
    shutil.copytree(whole, tmp_path / "out")
    error = refusal(capsys, *command(root, tmp_path / "out", *more))
    assert str(tmp_path / "out" / FILE) in error and difference in error and "--force" in error
    assert (tmp_path / "out" / FILE).read_bytes() == (whole / FILE).read_bytes()


def test_a_result_of_another_biased_set_or_of_unknown_settings_is_kept(root, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "out")
    np.save(tmp_path / "out/biased_dataset/0/val.npy", np.arange(5))
    assert "val " in refusal(capsys, *command(root, tmp_path / "out"))
    torch.save({"net": {}, "acc": 90.0, "epoch": 7}, tmp_path / "out" / FILE)  # as the published code wrote it
    assert "made with unknown settings" in refusal(capsys, *command(root, tmp_path / "out"))
    assert checkpoint.load(tmp_path / "out" / FILE)["acc"] == 90


@pytest.mark.parametrize("change", ["a train label", "a val image", "mean", "a class more"])
def test_a_result_of_other_data_is_kept(whole, tmp_path, capsys, change):
    make_dataset(tmp_path / "data/tiny")
    shutil.copytree(whole, tmp_path / "out")
    at = {part: int(np.load(tmp_path / f"out/biased_dataset/0/{part}.npy")[0]) for part in ("train", "val")}
    for name, index in {"a train label": ("labels", at["train"]), "a val image": ("images", 64 + at["val"])}.items():
        if name == change:
            array = np.load(tmp_path / f"data/tiny/{index[0]}.npy")
            array[index[1]] = (array[index[1]] + 1) % 3
            np.save(tmp_path / f"data/tiny/{index[0]}.npy", array)
    description = tmp_path / "data/tiny/dataset.json"
    more = {"mean": {"mean": [0.5] * 3, "std": [0.25] * 3}, "a class more": {"classes": list("abcd")}}.get(change, {})
    description.write_text(json.dumps(json.loads(description.read_text()) | more))
    assert "made with data " in refusal(capsys, *command(tmp_path / "data", tmp_path / "out"))


def test_a_result_of_another_version_of_the_code_is_kept(root, whole, tmp_path, capsys, monkeypatch):
    shutil.copytree(whole, tmp_path / "out")
    monkeypatch.setattr(version, "CODE", 2)
    assert "made with code not given instead of 2" in refusal(capsys, *command(root, tmp_path / "out"))


def test_a_result_of_an_earlier_version_which_does_not_tell_its_data_is_taken_as_it_is(root, whole, tmp_path, capsys):
    content = checkpoint.load(whole / FILE)
    del content["settings"]["data"]
    checkpoint.save(tmp_path / "out" / FILE, content)
    shutil.copytree(whole / "biased_dataset", tmp_path / "out/biased_dataset")
    train(root, tmp_path / "out")
    assert "nothing to do" in capsys.readouterr().out


def test_force_trains_anew_whatever_is_there(root, expected, tmp_path, capsys):
    (tmp_path / FILE).write_bytes(b"no checkpoint")
    assert f"{tmp_path / FILE} cannot be read" in refusal(capsys, *command(root, tmp_path))
    assert same(train(root, tmp_path, "--force"), expected)


# --- refusals

def test_an_unknown_dataset_ends_the_command_in_one_sentence(root, tmp_path, python):
    argv = [python, "train_classifier.py", *command(root, tmp_path), "--dataset", "nothing"]
    process = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2 and process.stdout == "" and files_in(tmp_path) == []
    assert process.stderr.startswith("error: dataset nothing is unknown; ") and process.stderr.count("\n") == 1
    assert "digits" in process.stderr


@pytest.mark.parametrize("more, message", [
    (["--model", "VGG"], "argument --model: model VGG is unknown; give one of MobileNet"),
    (["--class_weight", "3"], "argument --class_weight: invalid choice: 3"),
    (["--n_epochs", "0"], "0 is out of range"),
    (["--batch_size", "1"], "1 is out of range"),
])
def test_a_bad_flag_ends_in_one_sentence(root, tmp_path, capsys, more, message):
    assert message in refusal(capsys, *command(root, tmp_path, *more)) and files_in(tmp_path) == []


@pytest.mark.parametrize("rate, told", [("1e30", "epoch 1, "), ("1e300", "epoch 1, step 1 of the supervised pass: the weights would ")])
def test_what_is_not_finite_ends_in_one_sentence_and_leaves_no_model(root, tmp_path, capsys, rate, told):
    error = refusal(capsys, *command(root, tmp_path, "--lr", rate))
    assert error.startswith(f"error: {told}") and "finite; train with a lower --lr than 1e+3" in error
    assert FILE not in files_in(tmp_path)
    if PARTIAL in files_in(tmp_path):  # of the first step, after which all was finite
        assert all(value.isfinite().all() for value in checkpoint.load(tmp_path / PARTIAL)["model"].values())
    assert refusal(capsys, *command(root, tmp_path, "--lr", rate)) == error and FILE not in files_in(tmp_path)
