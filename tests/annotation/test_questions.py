"""questions.py: what is written for annotators, and what a scenario makes of their answers, over two rounds and a changed folder."""
import csv
import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import repair
import selection
from conftest import read_rows, refusal
from hybridrepair.annotation import label_studio, questions, sorted_images
from hybridrepair.annotation.manifest import Manifest, manifest_of
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.images.identity import digest_of, id_of
from hybridrepair.run.repair import answerable
from hybridrepair.run.scenario import Scenario
from mymodels import create

CLASSES = ["001", "=b", "c & <d>"]
FLAGS = ["--dataset", "signs", "--data_path", "data", "--fe", "model2test", "--p_budget", "5", "--device", "cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with photographs of handwritten digits, and a model that nothing was taught."""
    root = tmp_path_factory.mktemp("signs")
    digits = load_digits(n_class=3)
    for i, (image, label) in enumerate(zip(digits.images[:150], digits.target)):
        part = "train" if i < 20 else "val" if i < 30 else "test" if i < 50 else "field"
        folder = root / "data" / "signs" / part / ("" if part == "field" else CLASSES[label])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(folder / f"{i:03d}.png")
    (root / "data" / "signs" / "dataset.json").write_text('{"size": 8}')
    place = root / "check_point" / "signs" / "ckpt_bias"
    place.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save({"net": create("MobileNet", 3, 3).state_dict()}, place / "MobileNet_0_b.t7")
    return root


@pytest.fixture
def field(made, tmp_path, monkeypatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def select(*flags: str) -> None:
    selection.main(selection.parse_args([*FLAGS, *flags]))


def scenario(*flags: str) -> Scenario:
    return Scenario(repair.parse_args([*FLAGS, *flags]))


def true(id: str) -> str:
    """The class of the image field/<number>.png."""
    return CLASSES[load_digits(n_class=3).target[int(Path(id).stem)]]


def answer(folder: str, name=true) -> str:
    """Fill in to_label.csv as a person would."""
    path = Path(folder) / "to_label.csv"
    rows = read_rows(path)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": name(row["id"])} for row in rows)
    return str(path)


def ids(task: Scenario, at: np.ndarray) -> set[str]:
    return {id_of(task.dataset, index) for index in task.pool.pool_index[at]}


def test_the_folder_has_a_row_an_image_and_the_members_of_its_region(field, capsys):
    select("--out", "to_label")
    assert "5 of 100 images to annotate: to_label" in capsys.readouterr().out
    assert {path.name for path in Path("to_label").iterdir()} == {"to_label.csv", "regions.csv", "contact_sheet.png", "manifest.json"}
    rows, members = read_rows(Path("to_label/to_label.csv")), read_rows(Path("to_label/regions.csv"))
    assert list(rows[0]) == ["rank", "id", "digest", "file", "region", "region size", "unsmoothness", "predicted class", "label"]
    task = scenario()
    assert [row["id"] for row in rows] == [id_of(task.dataset, task.pool.pool_index[at]) for at in task.selection.annotated]
    for rank, row in enumerate(rows):
        assert (row["rank"], row["region"], row["label"]) == (str(rank + 1), str(rank), "")
        assert Path(row["file"]).samefile(f"data/signs/{row['id']}") and 0 <= float(row["unsmoothness"]) <= 1
        index = task.dataset.files.index(row["id"])
        assert row["digest"].lstrip("'") == digest_of(task.dataset, index) and row["predicted class"].lstrip("'") in CLASSES
        region = [each for each in members if each["region"] == row["region"]]
        assert len(region) == int(row["region size"]) and {each["representative"] for each in region} == {row["id"]}
        assert [each["id"] for each in region if each["is representative"] == "1"] == [row["id"]]
        at = task.selection.annotated[rank]
        assert {each["id"] for each in region} == ids(task, np.flatnonzero(task.selection.source == at))


def test_other_forms_hold_the_images_themselves(field):
    select("--solution", "gini", "--out", "to_label", "--format", "label-studio", "--format", "folders")
    out, rows = Path("to_label"), read_rows(Path("to_label/to_label.csv"))
    assert all(row["region"] == row["unsmoothness"] == "" and row["region size"] == "1" for row in rows)
    tasks = json.loads((out / label_studio.TASKS).read_text())
    assert [each["data"]["image_id"] for each in tasks] == [row["id"] for row in rows]
    for each, row in zip(tasks, rows):
        image = out / each["data"]["image"].removeprefix("/data/local-files/?d=")
        assert image.read_bytes() == Path(row["file"]).read_bytes()
        (prediction,) = each["predictions"]
        name = row["predicted class"].removeprefix("'")
        assert prediction["result"][0]["value"] == {"choices": [name]} and 1 / 3 <= prediction["score"] <= 1
        (copy,) = (out / sorted_images.FOLDER / name).glob(f"{int(row['rank']):04d}_*.png")
        assert copy.read_bytes() == image.read_bytes()
    assert {path.name for path in (out / sorted_images.FOLDER).iterdir()} == set(CLASSES)
    assert "c &amp; &lt;d&gt;" in (out / label_studio.CONFIG).read_text()


def test_images_that_no_browser_shows_become_png(tmp_path):
    Image.new("I;16", (8, 8)).save(tmp_path / "a.tif")
    name, content = questions.shown("0001_9f.tif", (tmp_path / "a.tif").read_bytes())
    assert name == "0001_9f.png" and content.startswith(b"\x89PNG")
    assert questions.shown("0001_9f.jpg", b"as it is") == ("0001_9f.jpg", b"as it is")


def test_a_folder_with_anything_in_it_is_not_written_over_and_force_replaces_what_is_ours(field):
    select("--out", "to_label", "--format", "folders")
    answer("to_label")
    for name in ("export.json", "contact_sheet_marked.png"):
        Path("to_label", name).write_text("[]")
    Path("to_label/contact_sheet_2.png").write_text("of more images than there are now")
    before = Path("to_label/to_label.csv").read_text()
    assert "perhaps answers" in (message := refusal(select, "--out", "to_label")) and "--force" in message
    assert Path("to_label/to_label.csv").read_text() == before
    select("--out", "to_label", "--force")
    assert {path.name for path in Path("to_label").iterdir()} == {
        "to_label.csv", "regions.csv", "contact_sheet.png", "manifest.json", "export.json", "contact_sheet_marked.png"}
    assert all(row["label"] == "" for row in read_rows(Path("to_label/to_label.csv")))
    for place in ("data", "to_label/export.json"):
        assert "other things" in refusal(select, "--out", place, "--force")


def test_questions_that_are_half_replaced_are_told_and_replaced_by_the_same_command(field, monkeypatch):
    select("--out", "to_label")
    whole = {path.name: path.read_bytes() for path in Path("to_label").iterdir()}
    calls: list[Path] = []

    def rename(path, target, real=Path.rename):
        calls.append(path)
        return 1 / 0 if len(calls) == 3 else real(path, target)

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Path, "rename", rename)
        select("--out", "to_label", "--force")
    assert len(list(Path("to_label").iterdir())) == 3  # the note in the manifest's place, and two others
    assert "are not all there" in (message := refusal(scenario, "--labels", "to_label")) and "call selection.py again" in message
    select("--out", "to_label")
    assert {path.name: path.read_bytes() for path in Path("to_label").iterdir()} == whole


def test_a_folder_on_a_disk_of_its_own_is_written_and_replaced(field, monkeypatch):
    disk = field / "to_label"
    disk.mkdir()

    def rename(path, target, real=Path.rename):
        if (disk in path.absolute().parents) != (disk in Path(target).absolute().parents):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    select("--out", "to_label", "--format", "folders")
    select("--out", "to_label", "--force")
    assert {path.name for path in disk.iterdir()} == {"to_label.csv", "regions.csv", "contact_sheet.png", "manifest.json"}


def test_nothing_half_written_is_left(field, monkeypatch):
    monkeypatch.setattr(Manifest, "write", lambda *args: 1 / 0)  # the last of all
    with pytest.raises(ZeroDivisionError):
        select("--out", "to_label")
    assert not [path for path in field.iterdir() if "to_label" in path.name]


# answers

def test_labels_stay_with_their_images_after_one_was_added_to_the_field(field, capsys):
    select("--out", "to_label")
    answer("to_label")
    first = scenario("--labels", "to_label/to_label.csv")
    Image.new("L", (8, 8), 99).save("data/signs/field/000.png")  # sorts before all others
    capsys.readouterr()
    second = scenario("--labels", "to_label/to_label.csv")
    assert "100 images, now 101" in capsys.readouterr().out
    for task in (first, second):
        answers = task.oracle.annotate(task.selection.annotated)
        names = [id_of(task.dataset, index) for index in task.pool.pool_index[task.selection.annotated]]
        assert [CLASSES[label] for label in answers] == [true(name) for name in names]
    assert second.selection.annotated.tolist() == (first.selection.annotated + 1).tolist()
    assert second.selection.source[1:].tolist() == np.where(first.selection.source == UNKNOWN, UNKNOWN,
                                                            first.selection.source + 1).tolist()


def test_three_forms_of_the_same_answers_give_the_same_labels(field):
    select("--out", "to_label", "--format", "label-studio", "folders")
    shutil.copytree("to_label", "sorted")
    rows = read_rows(Path("to_label/to_label.csv"))
    for path in sorted(Path("sorted/folders").rglob("*.png")):
        path.rename(Path("sorted/folders") / true(rows[int(path.name[:4]) - 1]["id"]) / path.name)
    tasks = json.loads(Path("to_label/tasks.json").read_text())
    for number, each in enumerate(tasks):
        choice = {"type": "choices", "from_name": "label", "to_name": "image", "value": {"choices": [true(each["data"]["image_id"])]}}
        each |= {"id": number, "annotations": [{"id": number, "completed_by": 1, "was_cancelled": False, "result": [choice]}]}
    Path("to_label/export.json").write_text(json.dumps(tasks))
    answer("to_label", lambda id: "1" if true(id) == "001" else f"'{true(id)}" if true(id)[0] == "=" else true(id))
    found = [scenario("--labels", path) for path in ("to_label/to_label.csv", "to_label/export.json", "sorted/folders")]
    labels = [task.oracle.annotate(task.selection.annotated).tolist() for task in found]
    assert labels == [[CLASSES.index(true(row["id"])) for row in rows]] * 3
    assert len({task.settings["labels"] for task in found}) == 3


def test_missing_labels_are_named_at_once_and_may_be_left_out_with_their_regions(field, capsys):
    select("--out", "to_label")
    rows = read_rows(Path("to_label/to_label.csv"))
    answer("to_label", lambda id: "" if id == rows[1]["id"] else true(id))
    message = refusal(scenario, "--labels", "to_label/to_label.csv")
    assert "no label for 1 of 5" in message and rows[1]["id"] in message
    task = scenario("--labels", "to_label/to_label.csv", "--allow_missing")
    left = answerable(task)
    assert rows[1]["id"] in capsys.readouterr().out
    whole = Manifest.read(Path("to_label/manifest.json"))
    assert len(left.annotated) == 4 and not ids(task, left.source >= 0) & {each.id for each in whole.members[1]}
    answer("to_label", lambda id: "")
    assert "no label for any of the 5" in refusal(lambda: answerable(scenario("--labels", "to_label", "--allow_missing")))


@pytest.mark.parametrize("flags, part", [
    (["--p_budget", "6"], "p_budget 5 instead of 6"), (["--solution", "gini"], "solution hybrid instead of gini"),
    (["--avg_clustersize", "5"], "avg_clustersize 10 instead of 5")])
def test_answers_to_questions_that_were_made_otherwise_are_refused(field, flags, part):
    select("--out", "to_label")
    answer("to_label")
    assert part in refusal(scenario, "--labels", "to_label/to_label.csv", *flags)


def test_a_second_round_asks_for_others_and_knows_what_the_first_gave(field):
    select("--out", "one")
    answer("one")
    first = scenario("--labels", "one/to_label.csv")
    labelled = np.flatnonzero(first.selection.source >= 0)
    select("--out", "two", "--labelled", "one/to_label.csv")
    asked = {row["id"] for row in read_rows(Path("two/to_label.csv"))}
    members = {row["id"] for row in read_rows(Path("two/regions.csv"))}
    assert len(asked) == 5 and not (asked | members) & ids(first, labelled)
    answer("two")
    second = scenario("--labels", "two/to_label.csv", "--labelled", "one/to_label.csv")
    expected = first.selection.labels(first.oracle.annotate(first.selection.annotated))
    assert second.known.tolist() == expected.tolist() and second.settings["labelled"]
    assert ids(second, second.selection.annotated) == asked and second.budget == 5
    assert "labelled" in refusal(scenario, "--labels", "two/to_label.csv")  # forgotten


def test_a_known_image_may_be_removed_between_the_choice_and_its_answers(field, capsys):
    select("--out", "one")
    answer("one")
    select("--out", "two", "--labelled", "one/to_label.csv")
    answer("two")
    members = [row["id"] for row in read_rows(Path("one/regions.csv")) if row["is representative"] == "0"]
    Path("data/signs", members[0]).unlink()
    flags = ["--labels", "two/to_label.csv", "--labelled", "one/to_label.csv"]
    task = scenario(*flags)
    assert members[0] in capsys.readouterr().out and len(task.selection.annotated) == 5
    with open("one/to_label.csv", "a") as file:
        file.write("\n")
    assert "labelled" in refusal(scenario, *flags)  # other answers


def test_earlier_rounds_are_the_same_in_any_order_and_others_are_not(field):
    for name, image in (("a", 50), ("b", 51)):
        Path(f"{name}.csv").write_text(f"id,label\nfield/{image:03d}.png,001\n")
    both, again, one = (scenario(*flags).settings["labelled"] for flags in (
        ["--labelled", "a.csv", "--labelled", "b.csv"], ["--labelled", "b.csv", "--labelled", "a.csv"], ["--labelled", "a.csv"]))
    assert both == again != one


def test_answers_that_no_image_of_a_new_choice_takes_are_named(field, capsys):
    select("--out", "one", "--solution", "random")
    answer("one")
    shutil.copy("one/to_label.csv", "answers.csv")
    flags = ["--solution", "random", "--manualSeed", "20", "--labels", "answers.csv", "--allow_missing"]
    task = scenario(*flags)
    unused = {row["id"] for row in read_rows(Path("answers.csv"))} - ids(task, task.selection.annotated)
    out = capsys.readouterr().out
    assert unused and f"answers {len(unused)} images that are not chosen" in out and min(unused) in out
    named = scenario(*flags, "--manifest", "one")
    assert named.selection.annotated.size == 5 and "not chosen" not in capsys.readouterr().out


def test_a_pool_that_is_labelled_as_a_whole_has_nothing_to_ask(field):
    rows = "".join(f"field/{i:03d}.png,001\n" for i in range(50, 150))
    Path("all.csv").write_text(f"id,label\n{rows}")
    assert "all 100 pool images are labelled" in refusal(select, "--out", "two", "--labelled", "all.csv")
    assert not Path("two").exists()


def test_an_array_has_questions_with_its_pixels(field):
    task = scenario("--solution", "gini")
    arrays = replace(task.dataset, files=())
    made = manifest_of(arrays, task.selection, task.origin)
    questions.write(Path("to_label"), replace(task.pool, dataset=arrays), task.selection, made, ["folders"], "model")
    found = sorted_images.read(Path("to_label/folders"), "labels file", CLASSES, True, made.ids)
    assert sorted(each.image for each in found) == sorted(made.images) and made.images[0].id.startswith("#")
    assert all(row["file"] == "" for row in read_rows(Path("to_label/to_label.csv")))
