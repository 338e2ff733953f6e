"""Selection and repair with annotators, in rounds."""
import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hybridrepair.run.course
import hybridrepair.run.scenario
import selection
import tables
from conftest import read_rows
from hybridrepair.base import checkpoint
from hybridrepair.base.rows import write_rows
from hybridrepair.run import output
from small import FLAGS, folder_of, refused, rows, run


@pytest.mark.parametrize("solution", ["hybrid", "hybrid+"])
def test_pool_labels_are_read_for_nothing_but_annotated_images_and_the_report(field, solution):
    """With every other label of the pool unknown, and the annotators' answers in a file, the repaired weights are the same."""
    run("--solution", solution, "--save_path", "known")
    run("--solution", solution, entry=selection)
    (path,) = Path("save/small_MobileNet").glob("selection_*/selected.csv")
    labels = np.load("data/small/labels.npy")
    asked = read_rows(path)
    assert all(each["label"] == "" for each in asked)
    with open("answers.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "label"])
        writer.writerows([each["index"], ["zero", "one", "two", "three"][labels[int(each["index"])]]] for each in asked)
    labels[340:] = -1
    np.save("data/small/labels.npy", labels)
    run("--solution", solution, "--save_path", "unknown", "--labels", "answers.csv")
    known, unknown = rows("known")[0], rows("unknown")[0]
    weights = [checkpoint.load(folder_of(row, name) / "MobileNet_0_b_repaired.t7")["net"]
               for row, name in ((known, "known"), (unknown, "unknown"))]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    right = {"hybrid": "propagation_acc", "hybrid+": "teacher_acc"}[solution]
    assert known[right] and unknown[right] == ""


def test_answers_with_a_manifest_make_all_plots_that_hybrid_plus_has_numbers_for(field, drawn, capsys):
    run("--solution", "hybrid+", "--out", "ask", entry=selection)
    labels, asked = np.load("data/small/labels.npy"), read_rows(Path("ask/to_label.csv"))
    names = ["zero", "one", "two", "three"]
    write_rows(Path("ask/to_label.csv"), asked[0], [each | {"label": names[labels[int(each["id"].lstrip("#"))]]} for each in asked])
    run("--solution", "hybrid+", "--labels", "ask/to_label.csv")
    (row,) = rows()
    assert "could not be written" not in capsys.readouterr().err and row["n_annotated"] == "10"
    assert {path.name for path in folder_of(row).glob("*.png")} == {"accuracy.png", "per_class.png", "region_sizes.png"}
    tables.main(tables.parse_args(["--report", str(folder_of(row))]))


def test_a_second_round_of_hybrid_plus_knows_the_answers_of_the_first_alone(field, capsys):
    run("--sel_l_data", "--sel_u_data")
    (first,) = rows()
    capsys.readouterr()
    asked = str(folder_of(first) / "selected.csv")
    run("--solution", "hybrid+", "--labelled", asked, "--model2test_path", str(next(folder_of(first).glob("*.t7"))))
    second = rows()[-1]
    assert (second["n_known"], second["n_annotated"], second["n_unlabelled"]) == ("10", "10", "180") and int(first["n_propagated"]) > 0
    chosen = [{each["index"] for each in read_rows(path)} for path in (folder_of(second) / "selected.csv", Path(asked))]
    assert not chosen[0] & chosen[1]


def test_a_later_round_that_was_interrupted_in_its_training_computes_no_regions_and_no_soft_labels_again(field, monkeypatch, capsys):
    run("--p_budget", "2")
    flags = ["--solution", "hybrid+", "--p_budget", "2", "--labelled", str(folder_of(rows()[0]) / "selected.csv")]
    run(*flags, "--save_path", "whole")

    def stop(*args, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(hybridrepair.run.course, "finetune", stop)
        run(*flags, "--save_path", "cut")
    monkeypatch.setattr(hybridrepair.run.scenario, "regions", stop)
    monkeypatch.setattr(hybridrepair.run.course, "teacher_of", stop)
    capsys.readouterr()
    run(*flags, "--save_path", "cut")
    assert "going on with what cut/0_hybrid+_2_10_" in capsys.readouterr().out and not list(Path("cut").rglob("*.partial.t7"))
    whole, cut = ({name: value for name, value in rows(place)[0].items() if "seconds" not in name} for place in ("whole", "cut"))
    assert whole == cut and whole["n_known"] != "0"


def test_selection_does_not_overwrite_answers(field, capsys):
    run("--solution", "gini", entry=selection)
    (path,) = Path("save/small_MobileNet").glob("selection_*/selected.csv")
    answers = read_rows(path)
    answers[0]["label"] = "two"
    write_rows(path, answers[0], answers)
    assert "holds labels already" in refused(capsys, "--solution", "gini", entry=selection)
    run("--solution", "gini", "--force", entry=selection)
    assert not output.answered(path)


def test_a_second_round_starts_from_the_repaired_model_and_knows_what_the_first_labelled(field, capsys):
    run("--p_budget", "2")
    (first,) = rows()
    assert first["n_known"] == "0"
    folder = folder_of(first)
    round_2 = ["--p_budget", "2", "--labelled", str(folder / "selected.csv"), "--save_path", "second",
               "--model2test_path", str(folder / "MobileNet_0_b_repaired.t7")]
    run(*round_2)
    (second,) = rows("second")
    assert int(second["n_known"]) == int(first["n_annotated"]) + int(first["n_propagated"]) and second["n_annotated"] == "4"
    assert f"known from earlier rounds {second['n_known']}" in capsys.readouterr().out
    asked = [{each["id"] for each in read_rows(place / "selected.csv")} for place in (folder, folder_of(second, "second"))]
    assert not asked[0] & asked[1]


def test_published_call_of_selection_names_the_call_of_repair(field, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["selection.py", *FLAGS, "--solution", "mcp", "--retrain"])
    message = refused(capsys, "--solution", "mcp", "--retrain", entry=selection)
    assert message.endswith(f"call: python repair.py {' '.join(FLAGS)} --solution mcp\n")


def test_selection_of_unlabelled_data_alone_selects_nothing_to_annotate(field, capsys):
    assert "--sel_l_data" in refused(capsys, "--sel_u_data", entry=selection)


def test_image_folder_with_files_in_the_selection(field):
    digits, labels = np.load("data/small/images.npy"), np.load("data/small/labels.npy")
    for part, begin, end in (("train", 0, 160), ("val", 160, 220), ("test", 220, 340), ("field", 340, 540)):
        for i in range(begin, end):
            folder = Path("data/signs", part, "" if part == "field" else f"c{labels[i]}")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits[i]).save(folder / f"{i}.png")
    Path("data/signs/dataset.json").write_text('{"size": 8}')
    shutil.copytree("check_point/small", "check_point/signs")
    run("--dataset", "signs", "--solution", "gini", entry=selection)
    (path,) = Path("save/signs_MobileNet").glob("selection_*/selected.csv")
    assert all(Path(each["file"]).is_file() and Path(each["file"]).parts[2] == "field" for each in read_rows(path))
