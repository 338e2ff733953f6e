"""From a folder of photographs and a bought model to the repaired model and its report, by the commands that a user types."""
import copy
import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from conftest import read_rows

ROOT = Path(__file__).parents[1]
CLASSES = ["big three", "one", "two", "zero"]  # in the order of the model's outputs, which is that of the folders' names
NAMES = ["zero", "one", "two", "big three"]  # of the digits 0 to 3
PARTS = {"train": range(100), "val": range(100, 120), "test": range(120, 180), "field": range(180, 270)}
DIGITS = load_digits(n_class=4)
TURNED, DEEP, DAMAGED = "field/0180.jpg", "field/0181.png", "field/0182.png"
MODEL = ["--dataset", "signs", "--model2test_arch", "torchvision:resnet18", "--fe", "model2test", "--p_budget", "9",
         "--avg_clustersize", "5", "--device", "cpu"]
# semi-supervised training is most of the time; one repair has it
SHORT = ["--sel_l_data", "--retrain_epoch", "6", "--retrain_lr", "0.01"]
N_ASKED = 8  # of 89


def name_of(image: str) -> str:
    """What a person sees in the image of a path."""
    return NAMES[DIGITS.target[int(Path(image).stem)]]


def photograph(number: int) -> Image.Image:
    """A digit in grey, 40 x 36 pixels; in the field, which the test images are of too, there is fog."""
    black, white = (0, 255) if number < PARTS["test"][0] else (100, 200)
    pixels = np.rint(black + DIGITS.images[number] / 16 * (white - black)).astype(np.uint8)
    return Image.fromarray(pixels).resize((40, 36), Image.Resampling.BICUBIC)


def write_images(folder: Path) -> None:
    """The parts as files: train has one image of one class, field is flat, with one image each turned, of 16 bits, and cut off."""
    for part, numbers in PARTS.items():
        rare = [number for number in numbers if part == "train" and NAMES[DIGITS.target[number]] == "big three"][1:]
        for number in numbers:
            if number not in rare:
                file = folder / part / ("" if part == "field" else NAMES[DIGITS.target[number]]) / f"{number:04d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                photograph(number).save(file)
    (folder / TURNED).with_suffix(".png").unlink()
    orientation = Image.Exif()
    orientation[0x112] = 6  # turned by a quarter to the right when shown
    photograph(180).transpose(Image.Transpose.ROTATE_90).save(folder / TURNED, exif=orientation, quality=95)
    Image.fromarray(np.asarray(photograph(181)).astype(np.uint16) * 257).save(folder / DEEP)
    whole = (folder / DAMAGED).read_bytes()
    (folder / DAMAGED).write_bytes(whole[:len(whole) // 2])
    # what the seller says of the model's input
    (folder / "dataset.json").write_text(json.dumps({"mean": [.5, .5, .5], "std": [.5, .5, .5]}))


def images_of(folder: Path, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images in the folders of classes as the bought model takes them, float [N, 3, size, size], and classes int64 [N]."""
    files = sorted(folder.glob("*/*.png"))
    pixels = [np.asarray(Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)) for file in files]
    return (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255 - .5) / .5, torch.tensor(
        [CLASSES.index(file.parent.name) for file in files])


def accuracy(checkpoint: Path, folder: Path, size: int) -> float:
    """Percent of the images that torchvision's network with the weights of a file, found as the seller's are, gets right."""
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    model = resnet18(num_classes=4)
    model.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()}, strict=True)
    images, labels = images_of(folder, size)
    with torch.no_grad():
        return 100 * (model.eval()(images).argmax(1) == labels).double().mean().item()


def train_elsewhere(folder: Path, path: Path, size: int) -> None:
    """A resnet18 trained by a plain loop on the train images, saved as its seller would."""
    images, labels = images_of(folder, size)
    model = resnet18(num_classes=4)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(8):
        for batch in torch.randperm(len(images)).split(16):
            loss = cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save({"epoch": 8, "classes": CLASSES, "state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}},
               path)


class Place:
    """The folder in which a user types commands."""

    def __init__(self, folder: Path, python: str, size: int):
        self.folder, self.python, self.size = folder, python, size

    def type(self, script: str, *flags: str, status: int = 0) -> subprocess.CompletedProcess:
        """The result of python SCRIPT.py FLAGS, which must end with `status`."""
        done = subprocess.run([self.python, ROOT / script, *flags], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == status and "Traceback" not in done.stderr, done.stdout + done.stderr
        return done

    def of(self, model: str) -> list[str]:
        """The flags that name a model and its images."""
        return [*MODEL, "--img_size", str(self.size), "--model2test_path", model]

    def repaired(self, *flags: str, model: str = "bought.pth") -> tuple[dict[str, str], Path]:
        """The row and the folder of the run that python repair.py FLAGS makes."""
        done = self.type("repair.py", *self.of(model), *flags)
        (made,) = re.findall(r"everything is in (.*)$", done.stdout, re.M)
        with open(self.folder / made / "../results.csv", newline="") as file:
            (row,) = [row for row in csv.DictReader(file) if row["run"] == Path(made).name]
        return row, self.folder / made

    def rows(self, path: str) -> list[dict[str, str]]:
        with open(self.folder / path, newline="") as file:
            return list(csv.DictReader(file))


def save_as_a_spreadsheet(path: Path, rows: list[dict[str, str]]) -> None:
    """The rows with semicolons, lines that end in CRLF, and the mark of UTF-8."""
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=";", lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)


def label(place: Place, questions: str) -> None:
    """Fill in the column label of to_label.csv."""
    rows = place.rows(f"{questions}/to_label.csv")
    save_as_a_spreadsheet(place.folder / questions / "to_label.csv", [row | {"label": name_of(row["id"])} for row in rows])


def annotated(task: dict, number: int) -> dict:
    """A task as Label Studio exports it: with its annotation, and of the first image a cancelled one before that."""
    def annotation(name: str, cancelled: bool) -> dict:
        choice = {"id": f"choice{number}", "from_name": "label", "to_name": "image", "type": "choices", "origin": "manual",
                  "value": {"choices": [name]}}
        return {"id": 2 * number + cancelled, "completed_by": 1, "was_cancelled": cancelled, "ground_truth": False, "lead_time": 2.5,
                "result": [choice]}
    right = name_of(task["data"]["image_id"])
    given = [annotation(right, False)]
    if number == 1:
        given.insert(0, annotation(next(name for name in CLASSES if name != right), True))
    return copy.deepcopy(task) | {"id": number, "annotations": given, "project": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory, pytestconfig, python) -> Place:
    """A folder with images, a bought model, and the images that were chosen to be labelled."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    write_images(folder / "dataset/signs")
    place = Place(folder, python, 32 if pytestconfig.getoption("--all") else 16)
    train_elsewhere(folder / "dataset/signs/train", folder / "bought.pth", place.size)
    place.type("selection.py", *place.of("bought.pth"), "--out", "to_label", "--format", "label-studio", "folders",
               "--skip_bad")
    shutil.copytree(folder / "to_label", folder / "untouched")
    return place


@pytest.fixture(scope="module")
def by_table(place) -> tuple[dict[str, str], Path]:
    """The repair by the answers in to_label.csv."""
    label(place, "to_label")
    return place.repaired(*SHORT, "--labels", "to_label/to_label.csv")


def test_selection_leaves_questions_and_names_the_damaged_image(place):
    described = json.loads((place.folder / "dataset/signs/dataset.json").read_text())
    assert [name for name, _ in described["skipped"]] == [DAMAGED] and described["classes"] == CLASSES
    rows = place.rows("untouched/to_label.csv")
    assert len(rows) == N_ASKED and not any(row["label"] for row in rows)
    assert {path.parent.name for path in (place.folder / "untouched/folders").glob("*/*.png")} <= set(CLASSES)


@pytest.mark.parametrize("labels, told", [
    ("untouched/to_label.csv", f"no label for {N_ASKED} of {N_ASKED} images"),
    ("mistyped.csv", "mistyped.csv, line 2: 'zreo' is no class")])
def test_answers_that_are_none_train_nothing(place, labels, told):
    rows = place.rows("untouched/to_label.csv")
    save_as_a_spreadsheet(place.folder / "mistyped.csv", [row | {"label": "zreo"} for row in rows])
    done = place.type("repair.py", *place.of("bought.pth"), "--save_path", "refused", "--labels", labels, status=2)
    assert told in done.stderr and done.stderr.count("\n") == 1 and "epoch" not in done.stdout
    assert not list(place.folder.glob("refused/*/run.json"))


def test_turned_and_16_bit_images_look_as_their_like(place):
    images = np.load(place.folder / "dataset/signs/images.npy")
    files = json.loads((place.folder / "dataset/signs/dataset.json").read_text())["files"]
    for file, number, nearly in ((TURNED, 180, 24), (DEEP, 181, 1)):
        meant = np.asarray(photograph(number).convert("RGB").resize((place.size,) * 2, Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(images[files.index(file)] - meant).max() <= nearly


def test_a_table_of_labels_gives_a_better_model_in_the_format_of_the_bought_one(place, by_table):
    row, made = by_table
    test = place.folder / "dataset/signs/test"
    assert int(row["n_annotated"]) == N_ASKED and int(row["n_propagated"]) > N_ASKED
    assert float(row["acc_raw"]) == pytest.approx(accuracy(place.folder / "bought.pth", test, place.size), abs=1e-3)
    assert float(row["acc_after"]) == pytest.approx(accuracy(made / "bought_repaired.pth", test, place.size), abs=1e-3)
    assert float(row["acc_after"]) > float(row["acc_before"]) and float(row["acc_after"]) > float(row["acc_raw"]) + 5
    bought, repaired = (torch.load(path, weights_only=True) for path in (place.folder / "bought.pth", made / "bought_repaired.pth"))
    assert list(bought) == list(repaired) and repaired["classes"] == CLASSES
    assert [(name, value.dtype) for name, value in bought["state_dict"].items()] == [
        (name, value.dtype) for name, value in repaired["state_dict"].items()]


def test_the_report_tells_what_happened(by_table):
    row, made = by_table
    text = (made / "report.html").read_text()
    assert f"{float(row['acc_before']):.2f}&nbsp;%" in text and f"{float(row['acc_after']):.2f}&nbsp;%" in text
    assert f"{row['fixed']} fixed and {row['broken']} broken ones" in text
    assert all(name in text for name in CLASSES) and "torchvision:resnet18" in text
    assert all(row["file"] in text for row in read_rows(made / "selected.csv"))


def test_label_studio_and_sorted_folders_give_the_same_model(place, by_table):
    tasks = json.loads((place.folder / "untouched/tasks.json").read_text())
    export = [annotated(task, number) for number, task in enumerate(tasks, 1)]
    (place.folder / "to_label/export.json").write_text(json.dumps(export))
    asked = {int(row["rank"]): row["id"] for row in place.rows("untouched/to_label.csv")}
    for file in sorted((place.folder / "to_label/folders").glob("*/*.*")):
        file.rename(file.parents[1] / name_of(asked[int(file.name[:4])]) / file.name)
    for labels in ("to_label/export.json", "to_label/folders"):
        row, made = place.repaired(*SHORT, "--labels", labels)
        assert made != by_table[1]
        assert (made / "bought_repaired.pth").read_bytes() == (by_table[1] / "bought_repaired.pth").read_bytes()


def test_a_second_call_does_nothing_and_tables_show_the_run(place, by_table):
    row, made = by_table
    again = place.type("repair.py", *place.of("bought.pth"), *SHORT, "--labels", "to_label/to_label.csv")
    assert "done already" in again.stdout and made.name in again.stdout and "epoch" not in again.stdout
    assert f"{float(row['acc_after']):.2f}" in place.type("tables.py", "save/").stdout


def test_a_second_round_asks_for_other_images_and_starts_from_the_repaired_model(place, by_table):
    first, made = by_table
    model = str(made / "bought_repaired.pth")
    place.type("selection.py", *place.of(model), "--labelled", "to_label/to_label.csv", "--out", "round_2")
    earlier = {row["id"] for row in place.rows("untouched/regions.csv")}
    asked = {row["id"] for row in place.rows("round_2/to_label.csv")}
    assert len(asked) == N_ASKED and not asked & earlier
    label(place, "round_2")
    second, _ = place.repaired(*SHORT, "--labels", "round_2/to_label.csv", "--labelled", "to_label/to_label.csv", model=model)
    assert float(second["acc_raw"]) == pytest.approx(float(first["acc_after"]), abs=1e-3)
    assert int(second["n_known"]) == int(first["n_annotated"]) + int(first["n_propagated"])


def test_field_images_alone_do_for_a_model_whose_classes_are_written_down(place, by_table):
    """Without train and val, by semi-supervised training too, as one has it who bought the model."""
    bare = Place(place.folder / "bare", place.python, place.size)
    for name in ("field", "test"):
        shutil.copytree(place.folder / "dataset/signs" / name, bare.folder / "dataset/signs" / name)
    (bare.folder / "dataset/signs/dataset.json").write_text(json.dumps({"classes": CLASSES, "mean": [.5] * 3, "std": [.5] * 3}))
    shutil.copytree(place.folder / "untouched", bare.folder / "to_label")
    shutil.copy(place.folder / "bought.pth", bare.folder)
    label(bare, "to_label")
    row, made = bare.repaired("--no_replay", "--skip_bad", "--exp", "-1", "--u_weight", "--retrain_epoch", "1", "--labels",
                              "to_label/to_label.csv")
    assert int(row["n_annotated"]) == N_ASKED and int(row["n_unlabelled"]) > 0 and row["acc_before"] == row["acc_raw"]
    test = bare.folder / "dataset/signs/test"
    assert float(row["acc_raw"]) == pytest.approx(accuracy(bare.folder / "bought.pth", test, place.size), abs=1e-3)
    assert float(row["acc_after"]) == pytest.approx(accuracy(made / "bought_repaired.pth", test, place.size), abs=1e-3)
    assert not (bare.folder / "biased_dataset").exists() and (made / "report.html").is_file()
