"""annotation.py: labels come one question at a time and within the budget, or from answers that say where they are wrong."""
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import field_of, refusal
from hybridrepair.annotation.manifest import Manifest, Origin, manifest_of
from hybridrepair.annotation.oracle import UNKNOWN, Oracle, budget_of, known_labels, labels_of, oracle_of
from hybridrepair.images.identity import digest_of, identity_of
from hybridrepair.selection.solutions import Selection

ORIGIN = Origin({"file": "", "digest": ""}, [], {"n": 0, "digest": ""}, {})


def annotator(budget: int = 3) -> Oracle:
    return Oracle(np.array([2, 0, UNKNOWN, 1, 1]), budget, source="file.csv", name="field/{}.png".format)


def labels(folder: Path, text: str, manifest: Manifest | None = None, n: int = 4, **more) -> list[int]:
    (folder / "answers.csv").write_text(text, encoding="utf-8")
    return labels_of(field_of(folder, n, **more), folder / "answers.csv", manifest).tolist()


# the annotator

def test_answers_are_the_labels_asked_for_in_their_order():
    assert annotator().annotate(np.array([3, 0, 1])).tolist() == [1, 2, 0]


def test_an_image_counts_once_however_often_it_is_asked_for():
    oracle = annotator()
    assert oracle.n_asked == 0
    assert oracle.annotate(np.array([0, 0, 3])).tolist() == [2, 2, 1] and oracle.n_asked == 2
    assert oracle.annotate(np.array([3, 1, 0])).tolist() == [1, 0, 2] and oracle.n_asked == 3
    assert oracle.annotate(np.array([], dtype=np.int64)).tolist() == [] and oracle.n_asked == 3


def test_questions_beyond_the_budget_are_refused_and_not_counted():
    oracle = annotator(budget=2)
    oracle.annotate(np.array([0]))
    assert "3 annotations were asked for, but the budget is 2" in refusal(oracle.annotate, np.array([0, 1, 3]))
    assert oracle.n_asked == 1
    assert oracle.annotate(np.array([4])).tolist() == [1]  # what is left of the budget can still be spent
    refusal(oracle.annotate, np.array([3]))
    assert oracle.n_asked == 2


def test_an_image_without_a_label_is_named_and_not_counted():
    oracle = annotator()
    message = refusal(oracle.annotate, np.array([4, 2, 0]))
    assert "file.csv has no label for 1 of 3 images" in message and "field/2.png" in message and "--allow_missing" in message
    assert oracle.n_asked == 0
    assert oracle.knows(np.array([4, 2, 0])).tolist() == [True, False, True] and oracle.n_asked == 0


def test_without_answers_the_labels_are_those_of_the_dataset(tmp_path):
    dataset = replace(field_of(tmp_path, 4), labels=np.array([0, 1, 2, UNKNOWN]), split={"pool": np.array([2, 3])})
    oracle = oracle_of(dataset, 2)
    assert oracle.annotate(np.array([0])).tolist() == [2]
    assert "dataset field has no label for 1 of 1 images to be annotated: field/3.png" in refusal(oracle.annotate, np.array([1]))


# answers

def test_labels_belong_to_images_not_to_positions(tmp_path):
    """A file that sorts before all others is added: positions shift by one, and the labels do not."""
    rows = "".join(f"{n},{identity.id},{identity.digest},{label}\n" for n, (identity, label) in enumerate(
        zip([identity_of(field_of(tmp_path, 3), n) for n in range(3)], ["cat", "dog", "owl"])))
    dataset = field_of(tmp_path, 4)
    later = replace(dataset, files=("field/-.png", *dataset.files[:3]))
    (tmp_path / "field" / "3.png").rename(tmp_path / "field" / "-.png")
    (tmp_path / "answers.csv").write_text(f"index,id,digest,label\n{rows}")
    assert labels_of(later, tmp_path / "answers.csv").tolist() == [UNKNOWN, 0, 1, 2]


def test_labels_by_index_alone_are_those_of_the_positions(tmp_path):
    assert labels(tmp_path, "index,label\n2,owl\n0,1\n3, dog \n", files=False) == [1, UNKNOWN, 2, 1]


def test_classes_that_a_spreadsheet_saved_as_numbers_are_not_off_by_one(tmp_path):
    text = "id,label\nfield/0.png,1\nfield/1.png,2\nfield/2.png,3\n"
    assert labels(tmp_path, text, n=3, classes=("001", "002", "003")) == [0, 1, 2]
    message = refusal(lambda: labels(tmp_path, text.replace("3\n", "0\n"), n=3, classes=("001", "002", "003")))
    assert "answers.csv, line 4" in message and "'0' is ambiguous" in message


@pytest.mark.parametrize("row, parts", [
    ("field/9.png,,cat", ["line 3", "image 'field/9.png' is not in the pool"]),
    ("field/1.png,0123456789abcdef,cat", ["line 3", "image 'field/1.png' was changed"]),
    ("field/1.png,,bird", ["line 3", "'bird' is no class (a spreadsheet may have changed it); use one of cat, dog, owl"])])
def test_an_unknown_or_changed_image_and_an_unknown_class_are_refused_with_file_and_line(tmp_path, row, parts):
    message = refusal(labels, tmp_path, f"id,digest,label\nfield/0.png,,cat\n{row}\n")
    assert "answers.csv" in message and all(part in message for part in parts), message


def test_the_majority_of_annotators_decides(tmp_path):
    rows = ["0.png,cat,Ann", "0.png,dog,Bob", "0.png,cat,Cy", "1.png,owl,Ann", "1.png,owl,Bob", "2.png,dog,", "2.png,dog,Ann",
            "3.png,,Ann", "3.png,cat,Bob"]
    text = "".join(f"field/{row}\n" for row in rows)
    assert labels(tmp_path, f"id,label,annotator\n{text}") == [0, 2, 1, 0]


def test_images_without_a_majority_are_named_with_their_lines(tmp_path):
    rows = ["0.png,cat,Ann", "1.png,dog,Ann", "0.png,dog,Bob", "1.png,dog,Bob", "2.png,owl,Ann", "2.png,cat,Bob"]
    text = "id,label,annotator\n" + "".join(f"field/{row}\n" for row in rows)
    message = refusal(labels, tmp_path, text)
    assert "no majority" in message and "line 2: cat" in message and "line 4: dog" in message and "field/2.png" in message
    assert "field/1.png" not in message


def test_an_annotator_that_contradicts_himself_is_refused_and_one_that_repeats_himself_counts_once(tmp_path):
    message = refusal(labels, tmp_path, "id,label,annotator\nfield/0.png,cat,Ann\nfield/0.png,dog,Ann\nfield/0.png,dog,Bob\n")
    assert "line 3" in message and "annotator Ann" in message and "line 2" in message
    assert "no majority" in refusal(labels, tmp_path, "id,label,annotator\n#0,cat,Ann\n#0,cat,Ann\n#0,dog,Bob\n".replace(
        "#0", "field/0.png"))


@pytest.mark.parametrize("more", [["cat"], ["dog"], ["cat", "dog"]])
def test_two_answers_of_nobody_named_are_refused_with_both_places_even_where_they_agree(tmp_path, more):
    message = refusal(labels, tmp_path, "id,label\nfield/0.png,cat\nfield/1.png,cat\n" + "".join(f"field/0.png,{x}\n" for x in more))
    assert "answers.csv, line 2 and" in message and "answers.csv, line 4 both answer image field/0.png" in message
    assert message.endswith("keep one, or name the annotators in a column annotator")


def test_an_image_in_two_sorted_folders_is_refused_with_both_paths(tmp_path):
    dataset = field_of(tmp_path, 2)
    for name in ("cat", "dog"):
        (tmp_path / "folders" / name).mkdir(parents=True)
        (tmp_path / "folders" / name / "a.png").write_bytes((tmp_path / "field" / "1.png").read_bytes())
    message = refusal(labels_of, dataset, tmp_path / "folders")
    assert "folders/cat/a.png and" in message and "folders/dog/a.png both answer image field/1.png; keep one" in message
    assert "column" not in message


def test_an_image_that_was_not_asked_for_is_refused(tmp_path):
    dataset = field_of(tmp_path, 4)
    chosen = Selection(np.array([1]), np.array([0]), np.array([1, 1, UNKNOWN, UNKNOWN]))
    manifest = manifest_of(dataset, chosen, ORIGIN)
    assert labels(tmp_path, "id,label\nfield/1.png,cat\n", manifest) == [UNKNOWN, 0, UNKNOWN, UNKNOWN]
    message = refusal(labels, tmp_path, "id,label\nfield/1.png,cat\nfield/0.png,cat\n", manifest)
    assert "line 3" in message and "was not asked for" in message and "--labelled" in message


def test_an_export_of_label_studio_is_checked_by_task(tmp_path):
    dataset = field_of(tmp_path, 2)

    def annotated(*pairs: tuple[int | None, str], copies: int = 1) -> np.ndarray:
        annotations = [{"id": n, "completed_by": by,
                        "result": [{"from_name": "label", "type": "choices", "value": {"choices": [choice]}}]}
                       for n, (by, choice) in enumerate(pairs)]
        task = {"id": 5, "data": {"image_id": "field/1.png", "digest": digest_of(dataset, 1)}, "annotations": annotations}
        (tmp_path / "export.json").write_text(json.dumps([task | {"id": 5 + n} for n in range(copies)]))
        return labels_of(dataset, tmp_path / "export.json")

    assert annotated((1, "dog")).tolist() == annotated((1, "dog"), (1, "dog")).tolist() == [UNKNOWN, 1]
    assert "task 5, annotation 1: annotator 1" in refusal(lambda: annotated((1, "dog"), (1, "cat")))  # doubled
    assert "no majority" in refusal(lambda: annotated((1, "dog"), (2, "cat")))
    assert annotated((None, "dog"), (None, "cat"), (None, "dog")).tolist() == [UNKNOWN, 1]
    message = refusal(lambda: annotated((None, "dog"), copies=2))
    assert "task 5, annotation 0 and" in message and "task 6, annotation 0 both answer image field/1.png" in message
    assert "task 5, annotation 0: '1' is no class" in refusal(lambda: annotated((1, "1")))  # a choice is a name
    assert "'added' is no class" in refusal(lambda: annotated((1, "added")))  # while annotating


def test_a_cancelled_task_is_named_where_its_label_is_missing(tmp_path):
    dataset = field_of(tmp_path, 2)
    tasks = [{"id": 5 + n, "data": {"image_id": f"field/{n}.png"}, "annotations": [{"id": 1, "was_cancelled": not n, "result": []}]}
             for n in range(2)]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    message = refusal(oracle_of(dataset, 2, str(tmp_path / "export.json")).check, np.array([0, 1]))
    assert f"field/0.png ({tmp_path}/export.json, task 5, annotation 1: cancelled), field/1.png; " in message


def test_answers_without_a_manifest_say_so_and_where_labels_are_missing_it_is_named(tmp_path, capsys):
    dataset = field_of(tmp_path, 4)
    (tmp_path / "answers.csv").write_text("id,label\nfield/3.png,cat\nfield/1.png,cat\nfield/2.png,dog\n")
    oracle = oracle_of(dataset, 2, str(tmp_path / "answers.csv"))
    out = capsys.readouterr().out
    assert f"no manifest beside {tmp_path}/answers.csv" in out and "chosen anew" in out and "--manifest" in out
    assert "--manifest" in refusal(oracle.check, np.array([0, 1]))
    oracle.tell_unused(np.array([0, 1]))
    assert "answers.csv answers 2 images that are not chosen" in (out := capsys.readouterr().out) and "field/2.png" in out
    chosen = Selection(np.array([3, 2, 1]), np.array([-1] * 3), np.array([UNKNOWN, 1, 2, 3]))
    oracle = oracle_of(dataset, 3, str(tmp_path / "answers.csv"), manifest_of(dataset, chosen, ORIGIN))
    oracle.tell_unused(chosen.annotated)
    assert capsys.readouterr().out == "" and "--manifest" not in refusal(oracle.check, np.array([0]))


# earlier rounds

def first_round(folder: Path, dataset, text: str = "id,label\nfield/4.png,owl\nfield/1.png,\n") -> str:
    """Answers to questions on images 4, which stands for 2, 4 and 5, and 1, which stands for 0 and 1."""
    folder.mkdir(exist_ok=True)
    chosen = Selection(np.array([4, 1]), np.array([7, 3]), np.array([1, 1, 4, UNKNOWN, 4, 4]))
    manifest_of(dataset, chosen, ORIGIN).write(folder / "manifest.json")
    (folder / "to_label.csv").write_text(text)
    return str(folder / "to_label.csv")


def test_what_was_labelled_before_is_known_with_its_region_and_what_was_left_out_is_not(tmp_path, capsys):
    dataset = field_of(tmp_path, 6)
    path = first_round(tmp_path / "one", dataset)
    assert known_labels(dataset, [path]).tolist() == [UNKNOWN, UNKNOWN, 2, UNKNOWN, 2, 2]
    assert capsys.readouterr().out == ""
    assert known_labels(dataset, [path], propagated=False).tolist() == [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 2, UNKNOWN]
    (tmp_path / "one" / "manifest.json").unlink()
    assert known_labels(dataset, [path], propagated=False)[4] == 2 and capsys.readouterr().out == ""
    assert known_labels(dataset, [path]).tolist() == [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 2, UNKNOWN]
    assert f"no manifest beside {path}: labels of regions are not known" in capsys.readouterr().out
    assert known_labels(dataset, []).tolist() == [UNKNOWN] * 6


def test_an_annotated_image_keeps_its_own_label_and_two_rounds_must_not_contradict_each_other(tmp_path):
    dataset = field_of(tmp_path, 6)
    path = first_round(tmp_path / "one", dataset)
    (tmp_path / "two.csv").write_text("id,label\nfield/5.png,cat\n")
    expected = [UNKNOWN, UNKNOWN, 2, UNKNOWN, 2, 0]
    assert known_labels(dataset, [path, str(tmp_path / "two.csv")]).tolist() == expected
    assert known_labels(dataset, [str(tmp_path / "two.csv"), path]).tolist() == expected
    (tmp_path / "two.csv").write_text("id,label\nfield/4.png,cat\n")
    message = refusal(known_labels, dataset, [path, str(tmp_path / "two.csv")])
    assert "two.csv" in message and "field/4.png" in message


def test_a_budget_is_cut_to_whole_images():
    assert budget_of(0.57, 10000) == 57 and budget_of(100, 3) == 3
    assert "is 0 images; give at least 0.5" in refusal(budget_of, 0.1, 200)
