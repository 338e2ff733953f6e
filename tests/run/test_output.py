"""output.py: which run a row is of, rows written by several processes at once, and the files and numbers of a run by hand."""
import csv
import json
import multiprocessing
import os
import re
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hybridrepair.base.files import write_json
from hybridrepair.base.rows import read_rows, write_rows
from hybridrepair.base.text import text_of
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.run import output
from hybridrepair.run.output import Run
from hybridrepair.selection.clustering import NOISE
from hybridrepair.selection.strategies import Selection

SETTINGS = {"retrain_lr": 0.001, "retrain_epoch": 10, "sel_u_data": True, "lam_ul": 100.0, "fe": "mocov3", "weights": "9f"}


def run_of(save_path: Path | None = None, settings: dict = SETTINGS, seed: int = 10, **args) -> Run:
    args = {"dataset": "digits", "model2test_arch": "MobileNet", "model_number": 0, "solution": "hybrid", "p_budget": 1.0,
            "save_path": save_path} | args
    return Run(SimpleNamespace(args=SimpleNamespace(**args), seed=seed, settings=settings))


def lines(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# texts

@pytest.mark.parametrize("value, text", [(None, ""), (True, "1"), (False, "0"), (10, "10"), (1000000, "1000000"), (1.0, "1"),
                                         (0.5, "0.5"), (5e-4, "0.0005"), (200 / 3, "66.6667"), ("0.10", "0.10")])
def test_a_value_is_told_in_up_to_six_digits_without_trailing_zeros(value, text):
    assert output.short(value) == text


@pytest.mark.parametrize("percent, text", [(83.8, "83.8"), (80.38, "80.38"), (100.0, "100"), (0.0, "0"), (10.0, "10"),
                                           (80.004, "80"), (79.996, "80"), (66.666, "66.67"), (0.05, "0.05")])
def test_an_accuracy_has_up_to_two_decimals_without_trailing_zeros(percent, text):
    assert output.accuracy_text(percent) == text


def test_the_headline_is_the_published_one():
    assert output.headline(80.38, 83.8) == "T2 Acc before/after repair: 80.38/83.8"
    assert output.headline(0.0, 100.0) == "T2 Acc before/after repair: 0/100"


def test_peak_memory_is_in_bytes():
    assert 5e7 < output.peak_memory() < 1e11  # torch alone takes more than 50 MB


# which run it is

def test_a_run_is_known_by_its_data_model_solution_budget_seed_and_settings():
    assert run_of(p_budget=0.5).identity == {
        "dataset": "digits", "model": "MobileNet", "model_number": "0", "solution": "hybrid", "p_budget": "0.5", "seed": "10",
        "settings": "retrain_lr=0.001 retrain_epoch=10 sel_u_data=1 lam_ul=100 fe=mocov3 weights=9f"}


def test_a_run_has_a_folder_beside_results_csv(tmp_path):
    run = run_of(tmp_path, model_number=2, p_budget=0.5, seed=30)
    assert run.results == tmp_path / "results.csv" and run.folder.parent == tmp_path
    assert re.fullmatch("2_hybrid_0.5_30_[0-9a-f]{8}", run.folder.name)
    assert run_of().results == Path("save/digits_MobileNet/results.csv")


OTHERS = {"dataset": {"dataset": "svhn"}, "model": {"model2test_arch": "resnet18"}, "model_number": {"model_number": 1},
          "solution": {"solution": "mcp"}, "p_budget": {"p_budget": 5.0}, "seed": {"seed": 20},
          "settings": {"settings": SETTINGS | {"lam_ul": 50.0}}}


@pytest.mark.parametrize("name", output.IDENTITY)
def test_another_identity_is_another_folder_and_another_row(tmp_path, name):
    run, other = run_of(tmp_path), run_of(tmp_path, **OTHERS[name])
    assert run.folder != other.folder and run.folder == run_of(tmp_path).folder
    other.write_row({"acc_after": 70.0})
    assert run.find() is None and other.find()["acc_after"] == "70"
    run.write_row({"acc_after": 80.0})
    assert run.find()["acc_after"] == "80" and other.find()["acc_after"] == "70"


def test_numbers_that_differ_beyond_six_digits_make_other_runs():
    exact = output.exact
    assert [exact(value) for value in (0.001, 1 / 3, True, None)] == ["0.001", "0.3333333333333333", "1", ""]
    assert run_of(p_budget=12.34567).identity != run_of(p_budget=12.345671).identity
    assert run_of(settings=SETTINGS | {"lam_ul": 1 + 1e-9}).folder != run_of(settings=SETTINGS | {"lam_ul": 1.0}).folder


# rows

def test_a_row_has_every_column_and_is_empty_where_the_run_has_nothing_to_say(tmp_path):
    run = run_of(tmp_path)
    assert run.find() is None
    run.write_row({"n_annotated": 8, "propagation_acc": None, "acc_after": 250 / 3, "versions": "python 3, torch 2"})
    head, row = lines(run.results)
    assert tuple(head) == output.COLUMNS
    told = {"n_annotated": "8", "acc_after": "83.3333", "versions": "python 3, torch 2", "run": run.folder.name}
    assert dict(zip(head, row)) == dict.fromkeys(output.COLUMNS, "") | run.identity | told
    assert run.find() == dict(zip(head, row))


def test_a_row_replaces_that_of_the_same_run_and_no_other(tmp_path):
    runs = [run_of(tmp_path, seed=seed) for seed in (10, 20, 30)]
    for i, run in enumerate(runs):
        run.write_row({"acc_after": i, "acc_smoothest": i})
    runs[1].write_row({"acc_after": 50.5})
    assert [(row["seed"], row["acc_after"], row["acc_smoothest"]) for row in read_rows(runs[0].results)] == [
        ("10", "0", "0"), ("30", "2", "2"), ("20", "50.5", "")]


def test_a_column_that_is_not_known_is_refused_and_the_rows_stay(tmp_path):
    run = run_of(tmp_path)
    run.write_row({"acc_after": 80})
    with pytest.raises(ValueError, match="accuracy"):
        run.write_row({"accuracy": 81})
    assert run.find()["acc_after"] == "80"
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", ".results.csv.lock"}


def write_ten(folder: Path, process: int, start) -> None:
    start.wait()
    for seed in range(10 * process, 10 * process + 10):
        for after in (1, seed):  # the second replaces the first
            run_of(folder, seed=seed).write_row({"acc_after": after, "fixed": seed, "device": f"process {process}"})


def test_processes_side_by_side_lose_and_mix_no_rows(tmp_path):
    context = multiprocessing.get_context("fork")  # starts at once: torch is imported here already
    start = context.Barrier(4)
    processes = [context.Process(target=write_ten, args=(tmp_path, i, start)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    head, *rows = lines(tmp_path / "results.csv")
    assert tuple(head) == output.COLUMNS and len(rows) == 40
    found = sorted((int(row["seed"]), row["acc_after"], row["fixed"], row["device"], row["run"])
                   for row in read_rows(tmp_path / "results.csv"))
    assert found == [(i, str(i), str(i), f"process {i // 10}", run_of(tmp_path, seed=i).folder.name) for i in range(40)]


def test_texts_come_back_from_a_csv_file_as_they_were(tmp_path):
    rows = [{"a": "1,5", "b": 'say "no"'}, {"a": "two\nlines", "b": "größer"}]
    write_rows(tmp_path / "new" / "file.csv", ("b", "a"), rows)
    assert read_rows(tmp_path / "new" / "file.csv") == rows and read_rows(tmp_path / "none.csv") == []
    assert lines(tmp_path / "new" / "file.csv")[0] == ["b", "a"]


def test_a_name_that_is_not_utf_8_is_written_as_the_text_of_it(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_rows(tmp_path / "file.csv", ["a"], [{"a": name}])
    assert read_rows(tmp_path / "file.csv") == [{"a": text_of(name)}]
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
