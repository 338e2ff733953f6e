"""pretrain_moco.py: its schedules, an epoch, k-NN accuracy, and a command that can be killed, repeated and refused."""
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import nn

import pretrain_moco
from conftest import Slow, interrupted_at, names_in, twice_at_once
from hybridrepair.base import checkpoint, version
from hybridrepair.base.errors import run
from hybridrepair.base.states import Kept
from hybridrepair.images.augment import Normalise
from hybridrepair.images.randomness import key
from hybridrepair.training import contrastive
from mymodels import moco
from mymodels.moco import ARCHITECTURES, PREFIX, MoCo

FINAL, PARTIAL = "checkpoint.pth.tar", "checkpoint.partial.pth.tar"
SPLIT = {"train": [0, 64], "val": [64, 80], "T2": [80, 96], "pool": [96, 160]}
SHALLOW = (ARCHITECTURES["resnet18"][0], (1, 1, 1, 1))  # half of resnet18's blocks, and of its time
TINY = dict(arch="resnet18", dim=8, mlp_dim=16)
KILLED = """
import os, signal, sys, pretrain_moco
pretrain_moco.ARCHITECTURES["resnet18"] = (pretrain_moco.ARCHITECTURES["resnet18"][0], (1, 1, 1, 1))
replace, states = os.replace, []

def replace_or_die(temporary, path):
    if str(temporary).endswith(".tmp") and ".partial." in str(path):
        states.append(path)
    if len(states) == 6:  # as if killed while it writes the state after epoch 2: there is one after each of two steps, too
        os.truncate(temporary, 100_000)
        os.kill(os.getpid(), signal.SIGKILL)
    replace(temporary, path)

os.replace = replace_or_die
pretrain_moco.main(pretrain_moco.parse_args(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet18", SHALLOW)


def arrays(channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a dataset whose train part is in order of four classes, and whose pool has no labels."""
    images = np.random.default_rng(0).integers(0, 256, (160, 16, 16, channels), dtype=np.uint8)
    return images, np.concatenate([np.arange(96) * 4 // 64 % 4, np.full(64, -1)])


def write(folder: Path, images: np.ndarray, labels: np.ndarray, **more) -> Path:
    """`folder`, with the dataset tiny in data/tiny."""
    (folder / "data/tiny").mkdir(parents=True, exist_ok=True)
    np.save(folder / "data/tiny/images.npy", images)
    np.save(folder / "data/tiny/labels.npy", labels)
    (folder / "data/tiny/dataset.json").write_text(json.dumps({"split": SPLIT, "classes": list("abcd"), **more}))
    return folder


def command(folder: Path, *more: str) -> list[str]:
    return ["--dataset", "tiny", "--data_root", str(folder / "data"), "--save_path", str(folder / "out"), "--device", "cpu",
            "--arch", "resnet18", "--dim", "8", "--mlp_dim", "16", "--n_images", "32", "--batch_size", "16", "--n_epochs", "3",
            "--lr", "0.5", *more]


def pretrain(folder: Path, *more: str) -> dict:
    """The checkpoint that a command leaves."""
    pretrain_moco.main(pretrain_moco.parse_args(command(folder, *more)))
    return checkpoint.load(folder / "out" / FINAL)


def refusal(folder: Path, capsys, *more: str) -> str:
    """What a command prints to stderr, which must be one line, with exit status 2."""
    with pytest.raises(SystemExit) as stop:
        run(pretrain_moco.main, pretrain_moco.parse_args(command(folder, *more)))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Folder of a run of three epochs that nothing disturbed."""
    folder = write(tmp_path_factory.mktemp("whole"), *arrays())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "resnet18", SHALLOW)
        pretrain(folder)
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path, *arrays())


@pytest.fixture
def complete(folder, whole) -> Path:
    """A folder of one's own with the dataset and the finished checkpoint."""
    shutil.copytree(whole / "out", folder / "out")
    return folder


# --- schedules

# 0.4 * 128 / 256 = 0.2; from epoch 10 on 0.1 * (1 + cos(pi * (time - 10) / 90))
@pytest.mark.parametrize("time, rate", [(0, 0), (5, 0.1), (9.5, 0.19), (10, 0.2), (40, 0.15), (55, 0.1), (70, 0.05), (100, 0)])
def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine(time, rate):
    args = pretrain_moco.parse_args(["--lr", "0.4", "--batch_size", "128", "--n_epochs", "100"])
    assert contrastive.learning_rate(time, args) == pytest.approx(rate, abs=1e-12)


def test_without_warm_up_the_learning_rate_starts_at_its_highest():
    args = pretrain_moco.parse_args(["--lr", "0.4", "--batch_size", "256", "--n_epochs", "2", "--warmup_epochs", "0"])
    assert [contrastive.learning_rate(time, args) for time in (0, 1)] == pytest.approx([0.4, 0.2])


@pytest.mark.parametrize("epochs, warm_up", [(200, 10), (100, 10), (30, 3), (1, 0.1)])
def test_warm_up_takes_a_tenth_of_the_epochs_and_at_most_ten(epochs, warm_up):
    assert pretrain_moco.parse_args(["--n_epochs", str(epochs)]).warmup_epochs == pytest.approx(warm_up)


@pytest.mark.parametrize("time, momentum", [(0, 0.9), (1, 0.925), (1.5, 0.95), (2, 0.975), (3, 1)])
def test_the_momentum_rises_to_1_as_a_cosine(time, momentum):
    args = pretrain_moco.parse_args(["--n_epochs", "3", "--momentum", "0.9"])
    assert contrastive.momentum(time, args) == pytest.approx(momentum)


# --- an epoch

class Recorder(nn.Module):
    """In place of MoCo: remembers what each step is given, with the learning rate at that time."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD(self.parameters(), lr=99)
        self.batches, self.views, self.rates, self.momenta = [], [], [], []

    def forward(self, batch, views, momentum, share):
        assert self.training
        self.batches.append(batch.tolist())
        self.views.append(views)
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.momenta.append(momentum)
        return 0 * self.weight.sum() + len(self.batches)


@pytest.fixture
def epoch_of(monkeypatch):
    """A function that runs an epoch of a recorder, whose views are replaced by the index of the images and their key."""
    def epoch_of(n: int, epoch: int, *flags: str) -> tuple[Recorder, float, int]:
        args = pretrain_moco.parse_args(["--n_epochs", "4", "--warmup_epochs", "2", "--batch_size", "4", "--lr", "64", *flags])
        recorder = Recorder().eval()
        images = torch.zeros(n, 16, 16, 3, dtype=torch.uint8)
        loss, seen = contrastive.train_epoch(recorder, recorder.optimizer, None, images, epoch, args)
        return recorder, loss, seen
    monkeypatch.setattr(contrastive, "pair", lambda images, normalise, views, batch: (batch, views))
    return epoch_of


def test_an_epoch_is_whole_batches_of_different_images_with_the_rates_of_their_time(epoch_of):
    recorder, loss, seen = epoch_of(11, 1)
    assert [len(batch) for batch in recorder.batches] == [4, 4] and seen == 8
    assert len({*sum(recorder.batches, [])}) == 8
    assert recorder.rates == pytest.approx([0.5, 0.75]) and loss == pytest.approx(1.5)  # highest 64 * 4 / 256 = 1, at epoch 2
    cosine = np.cos(np.pi * np.array([1, 1.5]) / 4)
    assert recorder.momenta == pytest.approx(1 - 0.01 * (1 + cosine) / 2)


def test_order_and_views_follow_from_seed_and_epoch(epoch_of):
    first, again, later, other = epoch_of(8, 0), epoch_of(8, 0), epoch_of(8, 1), epoch_of(8, 0, "--manualSeed", "11")
    assert first[0].batches == again[0].batches and first[0].views == again[0].views == [key(10, "moco views", 0)] * 2
    assert first[0].batches != later[0].batches and first[0].batches != other[0].batches
    assert len({recorder.views[0] for recorder, *_ in (first, later, other)}) == 3


def test_fewer_images_than_a_batch_are_one_batch(epoch_of):
    recorder, _, seen = epoch_of(3, 0)
    assert [sorted(batch) for batch in recorder.batches] == [[0, 1, 2]] and seen == 3


# --- k-NN accuracy

class Pixels(nn.Module):
    """In place of MoCo: the feature of an image is the direction of its pixels."""

    def extractor(self):
        return self

    def forward(self, x):
        return nn.functional.normalize(x.flatten(1), dim=1)


# angles in degrees, labels, neighbours -> which are right
@pytest.mark.parametrize("angles, labels, neighbours, right", [
    ([0, 5, 11, 60, 66, 75], [1, 1, 0, 0, 0, 1], 1, 4),  # nearest: images 1 0 1 4 3 4
    # nearest: images 123 023 103 452 352 432, which vote 100 100 110 010 010 000
    ([0, 5, 11, 60, 66, 75], [1, 1, 0, 0, 0, 1], 3, 2),
    ([0, 10, 21], [2, 0, 1], 2, 0),  # two votes each for different labels
    ([0, 10, 21], [0, 1, 0], 2, 2),  # as frequent: the smallest, 0, for images 0 and 2
    ([0, 10, 21], [0, 0, 0], 20, 3),  # more neighbours than there are
    ([0], [1], 20, 0),  # none at all
])
def test_knn_accuracy_counts_the_votes_of_the_nearest_without_the_image_itself(monkeypatch, angles, labels, neighbours, right):
    monkeypatch.setattr(contrastive, "NEIGHBOURS", neighbours)
    monkeypatch.setattr(contrastive, "KNN_BATCH", 5)  # the last batch is of one image
    radians = np.radians(angles)
    images = torch.from_numpy(np.rint(250 * np.stack([np.cos(radians), np.sin(radians)], 1)).astype(np.uint8))[:, None, :, None]
    found = contrastive.knn_accuracy(Pixels(), Normalise([0.0], [1.0]), images, torch.tensor(labels))
    assert found == pytest.approx(100 * right / len(labels))


def test_knn_accuracy_leaves_the_model_as_it_was():
    model = MoCo(**TINY)
    before = checkpoint.weights_of(model)
    images = torch.randint(0, 256, (30, 16, 16, 3), dtype=torch.uint8)
    contrastive.knn_accuracy(model, Normalise([0.5] * 3, [0.2] * 3), images, torch.arange(30) % 3)
    assert same(checkpoint.weights_of(model), before)


def test_labelled_images_are_spread_over_the_train_part(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(pretrain_moco, "KNN_IMAGES", 10)
    monkeypatch.setattr(contrastive, "knn_accuracy", lambda model, normalise, *known: seen.append(known) or 0.0)
    monkeypatch.setattr(contrastive, "train_epoch", lambda *args: (0.0, 1))
    pretrain(folder)
    images, labels = (array.numpy() for array in seen[0])
    every = arrays()
    index = [i for image in images for i in range(160) if (every[0][i] == image).all()]
    assert 5 < len(index) <= 10 and max(index) < 64 and set(labels) == {0, 1, 2, 3} and (every[1][index] == labels).all()


# --- what is trained on

def test_images_come_from_the_train_part_and_the_pool_alone(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(contrastive, "train_epoch", lambda *args: seen.append(args[3]) or (0.0, 1))
    pretrain(folder, "--n_images", "1000")
    images = arrays()[0]
    assert seen[0].numpy().tobytes() == np.concatenate([images[:64], images[96:]]).tobytes()


def test_weights_do_not_depend_on_val_t2_or_any_label(folder, whole):
    images, labels = arrays()
    images[64:96], labels = 255 - images[64:96], np.roll(labels[:96], 7)
    write(folder, images, np.concatenate([labels, np.arange(64) % 4]))
    assert same(pretrain(folder)["state_dict"], checkpoint.load(whole / "out" / FINAL)["state_dict"])


def test_a_number_of_images_is_drawn_once_from_both_parts(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(contrastive, "train_epoch", lambda *args: seen.append(args[3]) or (0.0, 1))
    pretrain(folder)
    index = [i for image in seen[0].numpy() for i in range(160) if (arrays()[0][i] == image).all()]
    assert len({*index}) == 32 and min(index) < 64 and max(index) >= 96 and not {*range(64, 96)} & {*index}
    assert all(images.equal(seen[0]) for images in seen)


def test_two_processes_train_an_extractor_once(folder, monkeypatch):
    slow = Slow(folder / "calls", lambda model, normalise, images, known, args, path, settings, after: checkpoint.save(
        path, {"settings": settings}))
    monkeypatch.setattr(contrastive, "train", slow)
    twice_at_once(lambda: pretrain_moco.main(pretrain_moco.parse_args(command(folder))))
    assert slow.calls == 1


# --- the file

def test_the_file_has_the_published_layout_and_moco_reads_it(whole):
    content = checkpoint.load(whole / "out" / FINAL)
    assert content.keys() == {"settings", "epoch", "knn", "arch", "state_dict"}
    assert content["epoch"] == 3 and content["arch"] == "resnet18" and [*content["knn"]] == [0, 3]
    model = MoCo(**TINY)
    assert [*content["state_dict"]] == ["module." + name for name in model.state_dict()]
    model.load_state_dict({name.removeprefix(PREFIX): value for name, value in content["state_dict"].items()})
    x = torch.randn(5, 3, 16, 16)
    extractor = moco.load(whole / "out" / FINAL)
    expected = model.eval().extractor()
    assert all(value.equal(expected.state_dict()[name]) for name, value in extractor.state_dict().items())
    # where arrays lie in memory decides last bits on some processors
    torch.testing.assert_close(extractor(x), expected(x).detach(), rtol=1e-5, atol=1e-6)
    assert names_in(whole / "out") == ["checkpoint.json", FINAL]
    record = json.loads((whole / "out" / "checkpoint.json").read_text())
    assert record["settings"] == json.loads(json.dumps(content["settings"])) and "torch" in record["versions"] and record["project"]


def test_grey_images_and_two_of_them_can_be_trained_on(tmp_path, capsys):
    write(tmp_path, *arrays(channels=1))
    pretrain(tmp_path, "--n_epochs", "1", "--n_images", "2")
    assert moco.load(tmp_path / "out" / FINAL)(torch.zeros(2, 1, 16, 16)).shape == (2, 8)
    out = capsys.readouterr().out
    assert "untrained: k-NN acc" in out and "epoch   1/1  loss" in out and "images/s  k-NN acc" in out


# --- interrupted, repeated, refused

def test_a_killed_run_goes_on_and_gives_what_it_would_have_given(folder, whole, capsys, python):
    killed = [python, "-c", KILLED, *command(folder, "--save_every", "0")]
    died = subprocess.run(killed, cwd=Path(pretrain_moco.__file__).parent)
    assert died.returncode == -signal.SIGKILL
    names = names_in(folder / "out")
    assert f"{PARTIAL}.before" in names and len(names) == 3 and FINAL not in names  # and a record, and what was being written
    undisturbed = checkpoint.load(whole / "out" / FINAL)
    for more in ([], ["--force"]):
        begun = shutil.copytree(folder, folder.with_name("begun" + "".join(more)))
        if more:
            checkpoint.save(begun / "out" / FINAL, {"settings": {"seed": 3}})  # what the killed run was to replace
        capsys.readouterr()
        resumed = pretrain(begun, *more)
        assert "going on after epoch 1" in capsys.readouterr().out
        assert same(resumed.pop("state_dict"), undisturbed["state_dict"])
        assert resumed == {name: value for name, value in undisturbed.items() if name != "state_dict"}
        assert not (begun / "out" / PARTIAL).exists()


def test_a_tracker_is_told_all_epochs_also_those_before_an_interruption(folder, monkeypatch):
    wandb = MagicMock(__spec__=True)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    flags = "--save_every", "0", "--knn_every", "2", "--report_to", "wandb"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(contrastive, "train_epoch", interrupted_at(3, contrastive.train_epoch))
        pretrain(folder, *flags)
    told = wandb.init.return_value
    before = [call.args[0] for call in told.log.call_args_list]
    told.reset_mock()
    made = pretrain(folder, *flags)
    records = [call.args[0] for call in told.log.call_args_list]
    assert [record["epoch"] for record in before] == [1, 2] and records[:2] == before and len(records) == 3
    assert [record.get("knn_acc") for record in records] == [None, made["knn"][2], made["knn"][3]]
    assert all(record["loss"] > 0 and record["lr"] >= 0 for record in records) and "log" not in made
    assert told.summary.update.call_args.args[0] == {"knn_acc_untrained": made["knn"][0], "knn_acc": made["knn"][3]}


def test_a_second_call_does_nothing(complete, capsys, monkeypatch):
    monkeypatch.setattr(pretrain_moco, "MoCo", None)
    before = (complete / "out" / FINAL).read_bytes()
    pretrain(complete)
    assert "nothing to do" in capsys.readouterr().out and (complete / "out" / FINAL).read_bytes() == before


@pytest.mark.parametrize("name", [FINAL, PARTIAL])
@pytest.mark.parametrize("flag, value, message", [
    ("--temperature", "0.5", "temperature 1.0 instead of 0.5"), ("--manualSeed", "11", "seed 10 instead of 11"),
    ("--n_images", "33", "n_images 32 instead of 33"), ("--small_stem", "", "small_stem False instead of True"),
    ("--precision", "bfloat16", "precision not given instead of bfloat16"),
])
def test_a_file_of_other_settings_is_refused_and_kept(complete, capsys, name, flag, value, message):
    path = complete / "out" / name
    if name == PARTIAL:
        settings = checkpoint.load(complete / "out" / FINAL)["settings"]
        (complete / "out" / FINAL).unlink()
        Kept(path, settings, 0).save(dict)
    before = path.read_bytes()
    error = refusal(complete, capsys, flag, *([value] if value else []))
    assert str(path) in error and message in error and "--force" in error and path.read_bytes() == before


def test_a_file_made_from_other_images_or_with_another_normalisation_is_refused(complete, capsys):
    images, labels = arrays()
    write(complete, images, labels, mean=[0.5] * 3, std=[0.25] * 3)
    error = refusal(complete, capsys)
    assert "mean (" in error and "instead of (0.5, 0.5, 0.5), std (" in error and "images" not in error.split("made with")[1]
    images[96:] ^= 1
    write(complete, images, labels)
    assert "made with images" in refusal(complete, capsys)


def test_a_file_of_another_version_of_the_code_is_refused(complete, capsys, monkeypatch):
    monkeypatch.setattr(version, "CODE", 2)
    assert "made with code not given instead of 2" in refusal(complete, capsys)


def test_a_published_file_and_a_damaged_one_are_refused_and_replaced_by_force(complete, capsys, whole):
    final, partial = complete / "out" / FINAL, complete / "out" / PARTIAL
    content = checkpoint.load(final)
    torch.save({"epoch": 3, "arch": "resnet18", "state_dict": content["state_dict"]}, final)
    assert "unknown settings" in (error := refusal(complete, capsys)) and "--force" in error
    final.rename(partial)
    partial.write_bytes(partial.read_bytes()[:5000])
    assert f"{partial} cannot be read" in refusal(complete, capsys)
    torch.save({"settings": [1]}, final)
    assert same(pretrain(complete, "--force")["state_dict"], content["state_dict"])
    assert not partial.exists()


@pytest.mark.parametrize("rate, more, told", [
    ("1e38", ["--n_epochs", "2"], "epoch 1, step 2: the loss is not finite"),
    ("1e38", ["--n_epochs", "1", "--n_images", "16"], "epoch 1, the "),  # the only step has a loss, and ruins weights or features
    ("1e300", ["--n_epochs", "2"], "epoch 1, step 1: the weights would not be finite"),
])
def test_a_training_that_diverges_ends_in_one_sentence_and_leaves_no_checkpoint(folder, capsys, rate, more, told):
    error = refusal(folder, capsys, "--lr", rate, "--warmup_epochs", "0", "--save_every", "3600", *more)
    assert error.startswith(f"error: {told}") and "finite; train with a lower --lr than 1e+" in error
    assert names_in(folder / "out") == ["checkpoint.json"]


def test_weights_that_break_in_a_last_step_leave_the_last_good_state(folder, capsys, monkeypatch):
    steps, descend = [], contrastive.descend

    def breaking(optimizer) -> None:
        descend(optimizer)
        steps.append(1)
        if len(steps) == 4:  # the second of epoch 2
            optimizer.param_groups[0]["params"][0].data[0] = float("nan")

    monkeypatch.setattr(contrastive, "descend", breaking)
    assert "error: epoch 2, the weights base_encoder.conv1.weight are not finite; " in refusal(folder, capsys, "--save_every", "0")
    state = checkpoint.load(folder / "out" / PARTIAL)
    assert state["epoch"] == 1 and all(value.isfinite().all() for value in state["model"].values())


def test_a_folder_that_cannot_be_made_is_refused_before_training(folder, capsys, monkeypatch):
    monkeypatch.setattr(pretrain_moco, "MoCo", None)
    file = folder / "data/tiny/images.npy"
    assert f"{file} cannot be used" in refusal(folder, capsys, "--save_path", str(file))


@pytest.mark.parametrize("more, message", [
    (["--dataset", "nothing"], "dataset nothing is unknown"),
    (["--arch", "vit"], "invalid choice: 'vit'"),
    (["--n_images", "1"], "1 is out of range"),
    (["--batch_size", "1"], "1 is out of range"),
    (["--warmup_epochs", "4"], "--warmup_epochs 4 is more than --n_epochs 3"),
])
def test_bad_input_ends_in_one_sentence(folder, capsys, more, message):
    assert message in refusal(folder, capsys, *more)


def test_field_images_alone_can_be_trained_on_and_no_accuracy_is_told(tmp_path, capsys):
    images, _ = arrays()
    write(tmp_path, images, np.full(160, -1), split={"pool": [0, None]})
    content = pretrain(tmp_path)
    out = capsys.readouterr().out
    assert content["knn"] == {} and "k-NN acc" not in out and "among 0 labelled ones" in out


def test_without_train_and_field_images_there_is_nothing_to_train_on(tmp_path, capsys):
    images, labels = arrays()
    write(tmp_path, images[:96], labels[:96], split={"T2": [0, None]})
    assert "has no pool images" in refusal(tmp_path, capsys)
