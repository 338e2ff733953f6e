"""output.py: the lines and files of a run, and numbers of it by hand."""
import csv
import json
import os
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hybridrepair.base.files import write_json
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.run import output
from hybridrepair.selection.clustering import NOISE
from hybridrepair.selection.solutions import Selection


def lines(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# texts

@pytest.mark.parametrize("percent, text", [(83.8, "83.8"), (80.38, "80.38"), (100.0, "100"), (0.0, "0"), (10.0, "10"),
                                           (80.004, "80"), (79.996, "80"), (66.666, "66.67"), (0.05, "0.05")])
def test_an_accuracy_has_up_to_two_decimals_without_trailing_zeros(percent, text):
    assert output.accuracy_text(percent) == text


def test_the_headline_is_the_published_one():
    assert output.headline(80.38, 83.8) == "T2 Acc before/after repair: 80.38/83.8"
    assert output.headline(0.0, 100.0) == "T2 Acc before/after repair: 0/100"


def test_what_is_spared_costs_a_line_and_ends_nothing(capsys):
    with output.spared("the plot", "make it again"):
        raise MemoryError("no room\nat all")
    assert capsys.readouterr() == ("", "the plot could not be written (MemoryError: no room); make it again\n")
    with pytest.raises(KeyboardInterrupt), output.spared("the plot", "make it again"):
        raise KeyboardInterrupt


def test_a_name_that_is_not_utf_8_comes_back_from_json(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "file.json", {"a": name})
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": name}


# what was selected

CHOSEN = Selection(annotated=np.array([3, 0, 2]), region=np.array([5, NOISE, 0]), source=np.array([0, 3, 2, 3]))


def scenario(**more) -> SimpleNamespace:
    """Four pool images, of classes cat, dog and owl, which are images 10, 20, 30, 40 of the dataset."""
    probs = torch.tensor([[.5, .3, .2], [.1, .8, .1], [0, .4, .6], [.2, .7, .1]], dtype=torch.float64)
    values = torch.tensor([.1, .2, .30000049, 1.0], dtype=torch.float64)
    images = np.eye(41, dtype=np.uint8)
    dataset = SimpleNamespace(class_names=["cat", "dog", "owl"], file="field/{}.png".format, files=(), images=images)
    return SimpleNamespace(dataset=dataset, pool_index=np.array([10, 20, 30, 40]), n=4, probs=probs, unsmoothness=values,
                           looked_at_views=True, **more)


def test_selected_csv_has_a_line_for_each_annotated_image_in_the_order_of_choice(tmp_path):
    output.write_selected(tmp_path / "selected.csv", scenario(), CHOSEN, np.array([1, 2, 0]))
    assert (tmp_path / "selected.csv").read_text() == """\
index,file,id,digest,region,unsmoothness,predicted class,label
40,field/40.png,#40,{},5,1.000000,dog,dog
10,field/10.png,#10,{},,0.100000,cat,owl
30,field/30.png,#30,{},0,0.300000,owl,cat
""".format(*(sha256(bytes(n) + b"\1" + bytes(40 - n)).hexdigest()[:16] for n in (40, 10, 30)))


def test_class_names_in_selected_csv_are_safe_in_a_spreadsheet(tmp_path):
    task = scenario()
    task.dataset.class_names = ["001", "=1+1", "cat"]
    output.write_selected(tmp_path / "selected.csv", task, CHOSEN, np.array([1, 2, 0]))
    assert [line[-2:] for line in lines(tmp_path / "selected.csv")[1:]] == [["'=1+1", "'=1+1"], ["'001", "cat"], ["cat", "'001"]]


def test_selected_csv_is_left_to_the_annotator_where_there_are_no_answers(tmp_path):
    task = scenario()
    task.looked_at_views = False
    del task.unsmoothness  # which must not be computed for this
    output.write_selected(tmp_path / "selected.csv", task, CHOSEN)
    assert [line[5:] for line in lines(tmp_path / "selected.csv")[1:]] == [["", "dog", ""], ["", "cat", ""], ["", "owl", ""]]
    assert not output.answered(tmp_path / "selected.csv")


@pytest.mark.parametrize("text, expected", [
    (None, False), ("", False), ("index,label\n", False), ("index,label\n1,\n2,  \n", False), ("index,label\n1,\n2\n", False),
    ("index,file\n1,a.png\n", False), ("index,label\n1,\n2,cat\n", True), ("index;label\n1;\n2;cat\n", True), ("label\n0\n", True)])
def test_a_selection_is_answered_once_it_has_a_label(tmp_path, text, expected):
    if text is not None:
        (tmp_path / "selected.csv").write_text(text)
    assert output.answered(tmp_path / "selected.csv") == expected


# propagation

@pytest.mark.parametrize("source, truth, count, right", [
    # image 0 and 4 are annotated: 1, 2, 3 take the label 7 of image 0, and 5 the label 8 of image 4
    ([0, 0, 0, 0, 4, 4], [7, 7, 7, 1, 8, 8], 4, 75),
    ([0, 0, 0, 0, 4, 4], [7, 7, UNKNOWN, 1, 8, 8], 4, 200 / 3),  # one label cannot be judged
    ([0, 0, UNKNOWN, UNKNOWN, 4, UNKNOWN], [9, 7, 7, 7, 9, 8], 1, 100),  # the annotator's own labels do not count
    ([0, 0, 0, 0, 4, 4], [7, UNKNOWN, UNKNOWN, UNKNOWN, 8, UNKNOWN], 4, None),
    ([0, 0, 0, 0, 4, 4], [UNKNOWN, 1, 1, 1, UNKNOWN, 1], 4, 0),
    ([0, UNKNOWN, UNKNOWN, UNKNOWN, 4, UNKNOWN], [7, 7, 7, 7, 8, 8], 0, None)])
def test_propagated_labels_are_counted_and_judged_where_truth_is_known(source, truth, count, right):
    selection = Selection(np.array([0, 4]), np.array([0, 1]), np.array(source))
    all_labels = np.full(100, 7)  # of the dataset; those of the pool stand backwards in it
    pool = np.array([90, 80, 70, 60, 50, 40])
    all_labels[pool] = truth
    task = SimpleNamespace(n=6, dataset=SimpleNamespace(labels=all_labels), pool_index=pool)
    n, accuracy = output.propagation(task, selection, selection.labels(np.array([7, 8])))
    assert n == count and accuracy == (right if right is None else pytest.approx(right))
