"""oracle.py: labels come one question at a time and within the budget, or from a file that says where it is wrong."""
from pathlib import Path

import numpy as np
import pytest

from hybridrepair.base.errors import UserError
from hybridrepair.run.annotation import UNKNOWN, Oracle, read_labels

POOL = np.array([50, 60, 70, 80])
CLASSES = ["cat", "dog", "owl"]


def annotator(budget: int = 3) -> Oracle:
    return Oracle(np.array([2, 0, UNKNOWN, 1, 1]), budget, source="file.csv")


def refusal(function, *args) -> str:
    """The message of the UserError that function(*args) raises, which must be one line."""
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def labels(folder: Path, text: str, encoding: str = "utf-8", classes: list[str] = CLASSES) -> list[int]:
    (folder / "labels.csv").write_text(text, encoding=encoding)
    return read_labels(folder / "labels.csv", POOL, classes).tolist()


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


def test_an_image_without_a_label_is_refused_and_not_counted():
    oracle = annotator()
    message = refusal(oracle.annotate, np.array([4, 2, 0]))
    assert "file.csv has no label for 1 of 3 images" in message and "the first being pool image 2" in message
    assert oracle.n_asked == 0


# labels from a file

def test_a_label_is_a_class_name_or_a_class_number(tmp_path):
    assert labels(tmp_path, "index,label\n70,owl\n50,1\n80, dog \n") == [1, UNKNOWN, 2, 1]


def test_a_class_name_goes_before_a_class_number(tmp_path):
    assert labels(tmp_path, "index,label\n50,1\n60,0\n70,2\n", classes=["1", "0", "nine"]) == [0, 1, 2, UNKNOWN]


def test_columns_may_stand_in_any_order_and_beside_others(tmp_path):
    assert labels(tmp_path, "rank,label,file,index\n1,cat,a.png,60\n2,,b.png,50\n") == [UNKNOWN, 0, UNKNOWN, UNKNOWN]


def test_the_byte_order_mark_that_spreadsheets_write_is_no_part_of_a_column(tmp_path):
    assert labels(tmp_path, "index,label\r\n50,dog\r\n", encoding="utf-8-sig") == [1, UNKNOWN, UNKNOWN, UNKNOWN]


@pytest.mark.parametrize("text", ["", "index,label\n", "index,class\n50,cat\n", "50,cat\n60,dog\n"])
def test_a_file_without_the_columns_or_rows_is_refused(tmp_path, text):
    assert "no rows with the columns index and label" in refusal(labels, tmp_path, text)


@pytest.mark.parametrize("index", ["0", "51", "5.0", "", "cat"])
def test_an_image_outside_the_pool_is_refused_with_its_line(tmp_path, index):
    message = refusal(labels, tmp_path, f"index,label\n50,cat\n{index},dog\n")
    assert "line 3" in message and f"image {index!r} is not in the pool" in message


@pytest.mark.parametrize("label", ["bird", "3", "-1", "Cat"])
def test_an_unknown_class_is_refused_with_its_line_and_the_classes(tmp_path, label):
    message = refusal(labels, tmp_path, f"index,label\n50,{label}\n")
    assert "line 2" in message and f"{label!r} is no class; use one of cat, dog, owl" in message


def test_many_classes_are_not_all_listed(tmp_path):
    message = refusal(labels, tmp_path, "index,label\n50,x\n", "utf-8", [f"c{i}" for i in range(12)])
    assert message.endswith("c8, c9, ...")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert "cannot be read" in refusal(read_labels, tmp_path / "none.csv", POOL, CLASSES)
    assert "cannot be read" in refusal(read_labels, tmp_path, POOL, CLASSES)
    assert "cannot be read" in refusal(labels, tmp_path, "index,label\n50,\xe9\n", "latin-1")
