"""What a repair leaves: row, record, model, selection, plots, report, and what its trackers are told."""
import hashlib
import json
import platform
import shutil
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

import hybridrepair.training.passes
import tables
from conftest import read_rows, refusal
from hybridrepair.base import checkpoint, provenance
from hybridrepair.base.rows import write_rows
from hybridrepair.images import data
from hybridrepair.report import evidence, page, plots
from hybridrepair.run import output, table
from small import MODEL_FILE, folder_of, refused, rows, run

# --- what a run gives and leaves

def test_hybrid_leaves_a_row_a_record_a_model_a_selection_and_plots(drawn, field, capsys):
    run("--auto_tao")
    out = capsys.readouterr().out.splitlines()
    (row,) = rows()
    assert list(row) == list(table.COLUMNS)
    assert out[-1] == output.headline(float(row["acc_before"]), float(row["acc_after"]))
    assert (row["dataset"], row["model"], row["solution"], row["seed"]) == ("small", "MobileNet", "hybrid", "10")
    assert int(row["n_annotated"]) == 10 and int(row["n_propagated"]) > 0 and int(row["n_unlabelled"]) > 0
    folder = folder_of(row)
    assert {path.name for path in folder.iterdir()} == {
        "run.json", "selected.csv", "manifest.json", "MobileNet_0_b_repaired.t7", "accuracy.png", "per_class.png", "region_sizes.png",
        "unsmoothness.png", "predictions.npz", "report.html", "biased_dataset"}
    record = json.loads((folder / "run.json").read_text())
    assert [each["epoch"] for each in record["epochs"]] == [1, 2]
    assert record["epochs"][-1]["acc"] == pytest.approx(float(row["acc_after"]), abs=1e-3)
    selected = read_rows(folder / "selected.csv")
    assert list(selected[0]) == ["index", "file", "id", "digest", "region", "unsmoothness", "predicted class", "label"]
    assert len(selected) == 10 and all(340 <= int(each["index"]) < 540 for each in selected)
    labels = np.load("data/small/labels.npy")
    names = ["zero", "one", "two", "three"]
    assert [each["label"] for each in selected] == [names[labels[int(each["index"])]] for each in selected]


def test_repaired_model_is_a_checkpoint_under_repair_with_the_reported_accuracy(field):
    run("--solution", "mcp")
    (row,) = rows()
    content = checkpoint.load(folder_of(row) / "MobileNet_0_b_repaired.t7")
    assert content["acc"] == pytest.approx(float(row["acc_after"]), abs=1e-3)
    run("--solution", "mcp", "--model2test_path", str(folder_of(row) / "MobileNet_0_b_repaired.t7"),
        "--save_path", "again")
    assert float(rows("again")[0]["acc_raw"]) == pytest.approx(content["acc"], abs=1e-3)


def test_weights_that_were_halved_to_be_shipped_are_repaired_in_full_and_come_no_longer_with_the_project(field):
    found = checkpoint.load(Path(MODEL_FILE))
    halves = {name: value.half() if value.is_floating_point() else value for name, value in found["net"].items()}
    checkpoint.save(Path(MODEL_FILE), found | {"net": halves, checkpoint.SHIPPED: "in half precision"})
    run("--solution", "random")
    repaired = checkpoint.load(folder_of(rows()[0]) / "MobileNet_0_b_repaired.t7")
    assert checkpoint.SHIPPED not in repaired and {value.dtype for value in repaired["net"].values()} == {torch.float32, torch.int64}


def test_a_model_may_lie_in_a_file_without_a_suffix(field):
    Path(MODEL_FILE).rename("model")
    run("--solution", "random", "--model2test_path", "model")
    assert (folder_of(rows()[0]) / "model_repaired").is_file()


def test_fixed_minus_broken_is_the_change_of_accuracy_on_t2(field):
    run("--solution", "random")
    (row,) = rows()
    change = (float(row["acc_after"]) - float(row["acc_before"])) * 120 / 100
    assert int(row["fixed"]) - int(row["broken"]) == pytest.approx(change, abs=1e-2)
    assert float(row["acc_best"]) >= float(row["acc_after"])


# --- the end of a run

def all_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_a_failing_plot_costs_a_line_and_plots_are_made_later(field, drawn, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(plots, "per_class", lambda *args: 1 / 0)
        run("--solution", "random")
    out, err = capsys.readouterr()
    (row,) = rows()
    assert out.splitlines()[-1] == output.headline(float(row["acc_before"]), float(row["acc_after"]))
    assert err == ("a plot could not be written (ZeroDivisionError: division by zero); python tables.py --report "
                   f"{folder_of(row)} makes it\n")
    whole = {"run.json", "selected.csv", "manifest.json", "MobileNet_0_b_repaired.t7", "predictions.npz", "report.html", "accuracy.png"}
    assert all_of(folder_of(row)) == whole
    tables.main(tables.parse_args(["--report", str(folder_of(row))]))
    assert all_of(folder_of(row)) == whole | {"per_class.png"}


def test_folders_in_the_place_of_files_cost_a_line_each_and_all_else_is_there(field, drawn, capsys):
    run("--solution", "random")
    (row,) = rows()
    names = ["predictions.npz", "report.html", "accuracy.png"]
    for path in (path for path in folder_of(row).iterdir() if path.is_file()):
        path.unlink()
        if path.name in names:
            path.mkdir()
    Path("save/small_MobileNet/results.csv").unlink()
    capsys.readouterr()
    run("--solution", "random", "--force")
    out, err = capsys.readouterr()
    assert [each["acc_after"] for each in rows()] == [row["acc_after"]]
    assert out.splitlines()[-1] == output.headline(float(row["acc_before"]), float(row["acc_after"]))
    assert [line.partition(" (IsADirectoryError")[0] for line in err.splitlines()] == [
        f"{what} could not be written" for what in ("predictions.npz", "report.html", "a plot")]
    assert all_of(folder_of(row)) == {"run.json", "selected.csv", "manifest.json", "MobileNet_0_b_repaired.t7"}
    assert not list(field.rglob("*.partial.t7")) and not list(field.rglob("*.tmp"))


def test_a_run_that_ended_between_its_row_and_its_report_is_ended_by_the_same_command(field, drawn, monkeypatch, capsys):
    run("--solution", "random", "--save_path", "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evidence, "save", MagicMock(side_effect=KeyboardInterrupt))
        run("--solution", "random")
    (row,) = rows()
    assert not (folder_of(row) / "report.html").exists()
    with monkeypatch.context() as patch:
        patch.setattr(hybridrepair.training.passes, "smoothed_loss", lambda *args: pytest.fail("was trained again"))
        run("--solution", "random")
    whole = Path("whole") / row["run"]
    for name in ("selected.csv", "MobileNet_0_b_repaired.t7", "accuracy.png", "per_class.png", "predictions.npz"):
        assert (folder_of(row) / name).read_bytes() == (whole / name).read_bytes()
    assert all_of(folder_of(row)) == all_of(whole)
    assert len(rows()) == 1 and not list(field.rglob("*.partial.t7"))
    capsys.readouterr()
    run("--solution", "random")
    assert "done already" in capsys.readouterr().out


def test_a_table_that_a_spreadsheet_saved_in_another_encoding_ends_no_repair_and_loses_no_row(field, capsys):
    run("--solution", "random")
    (first,) = rows()
    path = Path("save/small_MobileNet/results.csv")
    text = path.read_text().replace("run\n", "run,größer\n").replace(f"{first['run']}\n", f"{first['run']},schön\n")
    path.write_bytes(text.replace("\n", "\r\n").encode("cp1252"))
    capsys.readouterr()
    run("--solution", "gini")
    assert [row["solution"] for row in rows()] == ["random", "gini"] and rows()[0] == first | {"größer": "schön"}
    assert "results.csv is no CSV file in UTF-8: it is kept as results_as_found_" in capsys.readouterr().err


def test_a_run_is_found_by_its_folder_and_enters_its_row_again(field, capsys):
    run("--solution", "random")
    first, last = rows(), capsys.readouterr().out.splitlines()[-1]
    Path("save/small_MobileNet/results.csv").unlink()
    next(folder_of(first[0]).glob("*_repaired.t7")).unlink()
    run("--solution", "random")
    out = capsys.readouterr().out.splitlines()
    assert "done already" in out[-3] and "MobileNet_0_b_repaired.t7 is not there any more; --force makes it again" in out[-2]
    assert out[-1] == last and rows() == first


@pytest.mark.parametrize("change", [lambda row: row | {"acc_after": "80,38"},
                                    lambda row: {name: text for name, text in row.items() if name != "acc_before"}])
def test_a_run_of_the_table_alone_without_its_numbers_is_refused(field, capsys, change):
    run("--solution", "random")
    (row,) = rows()
    (folder_of(row) / "run.json").unlink()
    changed = change(row)
    write_rows(Path("save/small_MobileNet/results.csv"), list(changed), [changed])
    message = refusal(run, "--solution", "random")
    assert "results.csv tells no accuracy" in message and row["run"] in message and "--force" in message


def test_a_record_says_where_the_result_comes_from(field, monkeypatch):
    run("--solution", "random")
    (row,) = rows()
    record = json.loads((folder_of(row) / "run.json").read_text())
    model, dataset = Path("check_point/small/ckpt_bias/MobileNet_0_b.t7"), data.load("small", "data")
    replayed = np.load("check_point/small/ckpt_bias/biased_dataset/0/train.npy")
    assert record["inputs"] == {
        "dataset": dataset.digest, "model": hashlib.sha256(model.read_bytes()).hexdigest()[:16], "extractor": None, "labels": None,
        "labelled": None, "replayed": hashlib.sha256(replayed.tobytes()).hexdigest()[:16]}
    assert record["versions"] == provenance.versions() and f"python {platform.python_version()} torch " in record["versions"]
    assert record["project"] == provenance.project() and (record["precision"], record["seed"]) == ("float32", 10)
    assert record["device"] == "cpu (1 threads)" and record["processor"] and record["command"] == sys.argv
    labels = folder_of(row) / "selected.csv"
    run("--labels", str(labels), "--solution", "random", "--save_path", "labels")
    (row,) = rows("labels")
    assert f"labels={json.loads((folder_of(row, 'labels') / 'run.json').read_text())['inputs']['labels']}" in row["settings"]


# --- the report and the trackers

@pytest.mark.parametrize("flags, said", [
    (["--auto_tao"], "Regions with the largest sum of it came first"), (["--solution", "mcp"], "chose images one by one"),
    (["--solution", "hybrid+"], "trained on by what the model and a classifier of features said of it together (with weights of "),
    (["--sel_u_data", "--exp", "-1"], "Nothing was annotated in this run")], ids=["hybrid", "mcp", "hybrid+", "unlabelled"])
def test_a_run_leaves_a_report_with_its_numbers(drawn, field, flags, said):
    run(*flags)
    (row,) = rows()
    made = (folder_of(row) / "report.html").read_text()
    before, after = float(row["acc_before"]), float(row["acc_after"])
    assert said in made and f"{before:.2f}&nbsp;%" in made and f"{after:.2f}&nbsp;%" in made
    assert f"{row['fixed']} fixed and {row['broken']} broken ones" in made
    if row["propagation_acc"]:
        assert f"({float(row['propagation_acc']):.2f}&nbsp;%)</strong> took the right one" in made


def test_a_report_that_fails_loses_nothing_and_is_made_later(drawn, field, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(page, "render", lambda content: 1 / 0)
        run("--solution", "random")
    out, err = capsys.readouterr()
    (row,) = rows()
    assert out.splitlines()[-1] == output.headline(float(row["acc_before"]), float(row["acc_after"]))
    (line,) = err.splitlines()
    assert line.startswith("report.html could not be written (ZeroDivisionError")
    assert not (folder_of(row) / "report.html").exists() and not list(field.rglob("*.partial.t7"))
    shutil.rmtree("data")  # neither data nor model is needed
    shutil.rmtree("check_point")
    tables.main(tables.parse_args(line[line.index("tables.py") + len("tables.py "):-len(" makes it")].split()))
    assert f"{float(row['acc_after']):.2f}&nbsp;%" in (folder_of(row) / "report.html").read_text()


def test_trackers_follow_a_run_and_do_not_make_it_another(field, monkeypatch, capsys):
    wandb = MagicMock(__spec__=True)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run("--solution", "random", "--report_to", "wandb")
    (row,) = rows()
    told = wandb.init.call_args.kwargs
    assert told["name"] == row["run"] and told["config"]["p_budget"] == 5
    record = json.loads((folder_of(row) / "run.json").read_text())
    made = wandb.init.return_value
    assert [call.args[0]["acc"] for call in made.log.call_args_list] == [each["acc"] for each in record["epochs"]]
    assert made.summary.update.call_args.args[0]["acc_after"] == record["result"]["acc_after"] and made.finish.called
    run("--solution", "random")
    assert "done already" in capsys.readouterr().out and len(rows()) == 1


def test_a_tracker_that_fails_does_not_end_the_run(field, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", MagicMock(__spec__=True, **{"init.side_effect": RuntimeError("no network")}))
    run("--solution", "random", "--report_to", "wandb")
    assert "wandb failed and is told nothing more (RuntimeError: no network)" in capsys.readouterr().err and len(rows()) == 1


def test_a_tracker_without_its_package_is_told_at_once(field, monkeypatch, capsys):
    monkeypatch.setattr("hybridrepair.report.tracking.find_spec", lambda name: None)
    shutil.rmtree("data")
    assert "pip install trackio" in refused(capsys, "--report_to", "trackio")
