"""repair.py and selection.py as their users call them: what a run gives, leaves, repeats and refuses."""
import csv
import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image

import hybridrepair.run.course
import hybridrepair.run.scenario
import hybridrepair.selection.pool
import hybridrepair.training.baseline
import hybridrepair.training.passes
import repair
import selection
import tables
import train_classifier
from conftest import read_rows, refusal, write_small
from hybridrepair.annotation.oracle import budget_of
from hybridrepair.base import checkpoint, errors, provenance
from hybridrepair.base.rows import write_rows
from hybridrepair.base.states import states_of
from hybridrepair.base.text import text_of
from hybridrepair.images import data
from hybridrepair.report import evidence, page, plots
from hybridrepair.run import output, table
from hybridrepair.selection.pool import Pool
from hybridrepair.selection.solutions import SOLUTIONS
from hybridrepair.selection.uncertainty import Tau
from hybridrepair.training import baseline
from mymodels import mobilenet

ROOT = Path(__file__).parents[1]
FLAGS = ["--dataset", "small", "--data_path", "data", "--fe", "model2test", "--u_weight", "--p_budget", "5",
         "--retrain_epoch", "2", "--retrain_lr", "0.01", "--device", "cpu"]
SHALLOW = ((64, 2), (128, 2), (1024, 2))  # channels and stride of blocks


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """MobileNet of three blocks in place of thirteen, for a tenth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenet, "BLOCKS", SHALLOW)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shallow) -> Path:
    """A folder with the dataset `small`, a model under repair and its fine-tuned form, which all tests start from."""
    folder = tmp_path_factory.mktemp("trained")
    write_small(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_classifier.main(train_classifier.parse_args(
            ["--dataset", "small", "--data_root", "data", "--n_epochs", "20", "--batch_size", "16", "--lr", "0.01",  # of 120 images
             "--device", "cpu"]))
        run("--solution", "random")
        shutil.rmtree("save")
    return folder


@pytest.fixture
def drawn() -> None:
    """For tests that look at plots and reports; without this they are not drawn, which is most of the time of a short run."""


@pytest.fixture
def field(trained, tmp_path, monkeypatch, request) -> Path:
    """A copy of that folder, as the working directory."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(plots, "write", lambda *args: None)
        monkeypatch.setattr(page, "write", lambda *args: None)
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*flags: str, entry=repair) -> None:
    entry.main(entry.parse_args([*FLAGS, *flags]))


def rows(folder: str = "save/small_MobileNet") -> list[dict[str, str]]:
    with open(Path(folder) / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def folder_of(row: dict[str, str], folder: str = "save/small_MobileNet") -> Path:
    return Path(folder) / row["run"]


def refused(capsys, *flags: str, entry=repair) -> str:
    """The one sentence that the call ends in, with exit status 2."""
    with pytest.raises(SystemExit) as stop:
        errors.run(lambda: run(*flags, entry=entry))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


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


# --- solutions

@pytest.mark.parametrize("solution", SOLUTIONS)
def test_every_solution_runs_within_its_budget(field, solution):
    run("--solution", solution)
    (row,) = rows()
    assert row["n_annotated"] == "10"
    unlabelled = {"none": 0, "rest": 190, "all": 190, "taught": 190}  # annotated images are not without a label
    rule = SOLUTIONS[solution].unlabelled
    assert rule == "trusted" or int(row["n_unlabelled"]) == unlabelled[rule]


@pytest.mark.parametrize("cluster", ["dbscan", "hdbscan", "kmeans"])
def test_every_clustering_runs(field, cluster):
    run("--cluster", cluster)
    assert rows()[0]["n_annotated"] == "10"


@pytest.mark.parametrize("flags, tau", [(["--tao", "0.25"], 0.25), (["--avg_tao"], None), (["--auto_tao"], None),
                                        (["--exp", "-1"], "")])
def test_tau_follows_the_flags(field, flags, tau):
    run(*flags)
    found = rows()[0]["tau"]
    assert found == ("" if tau == "" else f"{tau:g}") if tau is not None else 0 < float(found) < 1
    if "--exp" in flags:
        labelled = int(rows()[0]["n_annotated"]) + int(rows()[0]["n_propagated"])
        assert int(rows()[0]["n_unlabelled"]) >= 199 - labelled  # the most unsmooth image has weight 0


@pytest.mark.parametrize("flags, annotated", [(["--sel_l_data"], "10"), (["--sel_u_data"], "0")])
def test_each_half_of_hybrid_runs_alone(field, flags, annotated):
    run(*flags, "--tao", "1")
    (row,) = rows()
    assert row["n_annotated"] == annotated
    assert (row["n_unlabelled"] == "0") == (flags == ["--sel_l_data"])


def test_hybrid_plus_annotates_what_hybrid_does_and_starts_from_the_same_model(field, capsys):
    run()
    run("--solution", "hybrid+")
    hybrid, plus = rows()
    asked = [[each["index"] for each in read_rows(folder_of(row) / "selected.csv")] for row in (hybrid, plus)]
    assert asked[0] == asked[1] and plus["acc_before"] == hybrid["acc_before"]
    assert (plus["n_propagated"], plus["tau"], plus["unsmoothness_after"], plus["acc_smoothest"]) == ("0", "", "", "")
    assert 50 < float(plus["teacher_acc"]) <= 100 and hybrid["teacher_weight_model"] == hybrid["teacher_acc"] == ""
    model, features = (float(plus[f"teacher_weight_{each}"]) for each in ("model", "features"))
    told = f"taught by {model:.2f} model + {features:.2f} features ({float(plus['teacher_acc']):.2f} % right)"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("flags, annotated, unlabelled", [(["--sel_l_data"], "10", "0"), (["--sel_u_data"], "0", "200")])
def test_each_half_of_hybrid_plus_runs_alone(field, flags, annotated, unlabelled):
    run("--solution", "hybrid+", *flags)
    (row,) = rows()
    assert (row["n_annotated"], row["n_unlabelled"]) == (annotated, unlabelled)
    assert row["teacher_weight_model"] == row["teacher_weight_features"] == ("" if unlabelled == "0" else "0.5")


# --- repetition

def test_same_command_gives_the_same_selection_and_accuracies_and_another_batch_size_the_same_selection(field):
    for name, flags in {"a": [], "b": [], "c": ["--batch_size", "47"], "d": ["--cluster", "kmeans"],
                        "e": ["--cluster", "kmeans", "--batch_size", "47"]}.items():
        run("--save_path", name, *flags)
    a, b, *others = (rows(name)[0] for name in "abcde")
    selected = [(folder_of(row, name) / "selected.csv").read_bytes() for row, name in ((a, "a"), (b, "b"))]
    assert selected[0] == selected[1]
    accuracies = [name for name in table.COLUMNS if name.startswith("acc")]
    assert [a[name] for name in accuracies] == [b[name] for name in accuracies]
    chosen = [[(each["index"], each["region"]) for each in read_rows(folder_of(row, name) / "selected.csv")]
              for row, name in zip([a, *others], "acde")]
    assert chosen[0] == chosen[1] != chosen[2] == chosen[3]


def test_a_check_needs_no_model_and_says_what_it_has_checked(field, capsys):
    shutil.rmtree("check_point")
    run("--check")
    assert capsys.readouterr().out == "checked, but for the model: hybrid on small, 10 of 200 images to annotate\n"
    run("--check", entry=selection)
    assert "checked, but for the model: hybrid on small" in capsys.readouterr().out and not Path("save").exists()


def test_a_finished_run_is_skipped_and_force_does_it_again(field, capsys, monkeypatch):
    run("--solution", "mcp")
    first = capsys.readouterr().out.splitlines()[-1]
    monkeypatch.setattr(repair, "repair", lambda *_: pytest.fail("was done again"))
    run("--solution", "mcp")
    again = capsys.readouterr().out.splitlines()
    assert "done already" in again[-2] and again[-1] == first
    monkeypatch.undo()
    monkeypatch.chdir(field)
    run("--solution", "mcp", "--force")
    assert len(rows()) == 1


def test_other_seeds_and_settings_are_runs_of_their_own_and_settings_that_do_not_matter_are_not(field, capsys):
    run("--solution", "random")
    run("--solution", "random", "--manualSeed", "20")
    run("--solution", "random", "--retrain_epoch", "1")
    assert len(rows()) == 3
    run("--solution", "random", "--tao", "0.5", "--avg_clustersize", "3", "--exp", "-1")
    assert len(rows()) == 3 and "done already" in capsys.readouterr().out


def test_cells_and_precision_are_settings_where_they_change_the_result(field, capsys):
    run("--sel_l_data")
    run("--sel_l_data", "--cell_size", "50")
    run("--sel_l_data", "--cell_size", "50", "--cluster", "dbscan")  # which is not cut
    run("--solution", "gini", "--cell_size", "50")
    run("--solution", "gini", "--precision", "bfloat16")
    settings = [row["settings"] for row in rows()]
    assert ["cell_size=50" in text for text in settings] == [False, True, False, False, False]
    assert ["noise=cells" in text for text in settings] == [False, True, False, False, False]
    assert ["precision=bfloat16" in text for text in settings] == [False] * 4 + [True]
    accuracy = [float(row["acc_before"]) for row in rows()]
    assert accuracy[4] == pytest.approx(accuracy[3], abs=10)  # of another "before", at lower precision


def test_published_name_of_hybrid_is_hybrid(field, capsys):
    run()
    run("--solution", "TTA")
    assert len(rows()) == 1 and "done already" in capsys.readouterr().out


def baselines() -> list[Path]:
    return sorted(Path("check_point/small/ckpt_bias").glob("MobileNet_0_b_finetuned*"))


def test_baselines_are_made_once_for_each_settings_and_read_once(field, capsys, monkeypatch):
    (path,) = baselines()
    first = path.read_bytes()
    run("--solution", "random", "--retrain_epoch", "1")
    assert sorted(checkpoint.load(each)["settings"]["epochs"] for each in baselines()) == [1, 2]
    read = []
    monkeypatch.setattr(checkpoint, "load", lambda path, load=checkpoint.load: (read.append(path), load(path))[1])
    run("--solution", "mcp", "--manualSeed", "20")
    run("--solution", "mcp", "--retrain_epoch", "1")
    assert path.read_bytes() == first and len(baselines()) == 2
    assert [each for each in read if "finetuned" in each.name] == [path, *(each for each in baselines() if each != path)]
    assert "on its own train set" in capsys.readouterr().out.split("epoch  1/1")[0]  # for the first of them alone


def test_a_fine_tuned_checkpoint_of_the_published_code_is_left_as_it_is(field):
    published = Path("check_point/small/ckpt_bias/MobileNet_0_b_finetuned.t7")
    torch.save({"conv1.weight": torch.zeros(1)}, published)  # a bare state_dict
    before = published.read_bytes()
    run("--solution", "random", "--manualSeed", "20")
    run("--solution", "random", "--retrain_epoch", "1")
    assert published.read_bytes() == before


def test_a_changed_label_of_the_train_set_makes_another_baseline(field):
    labels = np.load("data/small/labels.npy")
    labels[:160] = np.roll(labels[:160], 1)
    np.save("data/small/labels.npy", labels)
    run("--solution", "random")
    assert len(baselines()) == 2


# --- whose evidence

def test_what_selects_comes_from_the_checkpoint_and_training_from_its_fine_tuned_form(field, monkeypatch):
    """With a fine-tuned form that is quite another network, the selection and both taus stay, and "before" does not."""
    run("--save_path", "one")
    (path,) = baselines()
    content = checkpoint.load(path)
    checkpoint.save(path, content | {"net": {name: torch.zeros_like(value) if "linear" in name else value
                                             for name, value in content["net"].items()}})
    run("--save_path", "other")
    (one,), (other,) = rows("one"), rows("other")
    selected = [(folder_of(row, name) / "selected.csv").read_bytes() for row, name in ((one, "one"), (other, "other"))]
    assert selected[0] == selected[1]
    for name in ("tau_auto", "tau_avg", "unsmoothness_before", "n_unlabelled", "annotated_wrong", "acc_raw"):
        assert one[name] == other[name]
    assert one["acc_before"] != other["acc_before"]


@pytest.mark.parametrize("flags, column", [(["--auto_tao"], "tau_auto"), (["--avg_tao"], "tau_avg"),
                                           (["--auto_tao", "--avg_tao"], "tau_avg")])
def test_both_estimates_of_tau_are_reported_and_the_average_wins(field, flags, column, monkeypatch):
    # T2 is so small here that all of it is typical, and both estimates are the same
    monkeypatch.setattr(hybridrepair.run.scenario, "tau_estimates", lambda *given: Tau(auto=0.25, average=0.75))
    run(*flags)
    (row,) = rows()
    assert row["tau"] == row[column] and (row["tau_auto"], row["tau_avg"]) == ("0.25", "0.75")


def test_regions_do_not_depend_on_the_seed(field):
    for seed in ("10", "20"):
        run("--manualSeed", seed, "--save_path", seed)
    regions = [{(each["index"], each["region"]) for each in read_rows(folder_of(rows(seed)[0], seed) / "selected.csv")}
               for seed in ("10", "20")]
    both = {index for index, _ in regions[0]} & {index for index, _ in regions[1]}
    assert len(both) > 5  # the ranks of regions follow the views, which a seed draws
    assert {each for each in regions[0] if each[0] in both} == {each for each in regions[1] if each[0] in both}


def test_a_repair_draws_nothing_that_its_baseline_drew(field, monkeypatch):
    keys = {}
    for stage, module in (("baseline", hybridrepair.training.baseline), ("repair", hybridrepair.run.course)):
        monkeypatch.setattr(module, "finetune", lambda *args, stage=stage, genuine=module.finetune, **more: (
            keys.setdefault(stage, args[3].seed), genuine(*args, **more))[1])
    run("--solution", "random", "--retrain_epoch", "1")
    assert keys["baseline"] != keys["repair"]


def test_the_smoothest_epoch_is_that_of_the_sum_normalised_in_each_epoch(field, monkeypatch):
    """By the raw sums of these three epochs the last would be the smoothest, by the normalised ones it is the first."""
    entropies = iter([[4.0] + [0.1] * 199, [1.0] * 200, [0.1] * 200])
    monkeypatch.setattr(Pool, "uncertainty_of", lambda self, model, genuine=Pool.uncertainty_of: (
        genuine(self, model) if model is self.model else genuine(self, model)._replace(
            mean_entropy=torch.tensor(next(entropies), dtype=torch.float64))))
    run("--sel_l_data", "--retrain_epoch", "3")
    (row,) = rows()
    record = json.loads((folder_of(row) / "run.json").read_text())["epochs"]
    assert [each["unsmoothness"] for each in record] == pytest.approx([1 + 199 / 40, 200, 200])
    assert float(row["acc_smoothest"]) == pytest.approx(record[0]["acc"], abs=1e-3)


def test_published_statistics_of_batch_norm_are_the_default_and_others_a_setting(field, monkeypatch):
    recipes = []
    for module in (hybridrepair.training.baseline, hybridrepair.run.course):
        monkeypatch.setattr(module, "finetune", lambda *args, genuine=module.finetune, **more: (
            recipes.append(args[3].estimated_statistics), genuine(*args, **more))[1])
    run("--solution", "random", "--retrain_epoch", "1")
    assert recipes == [False, False] and len(baselines()) == 2
    run("--solution", "random", "--retrain_epoch", "1", "--estimated_statistics")
    assert recipes[2:] == [True, True] and len(baselines()) == 3
    assert ["estimated_statistics=1" in row["settings"] for row in rows()] == [False, True]


def test_the_smoothest_epoch_of_a_run_has_the_smallest_sum(field):
    run("--retrain_epoch", "3")
    (row,) = rows()
    record = json.loads((folder_of(row) / "run.json").read_text())["epochs"]
    assert all(0 < each["unsmoothness"] <= 200 for each in record)  # of 200 images, each in [0, 1]
    smoothest = min(record, key=lambda each: each["unsmoothness"])
    assert float(row["acc_smoothest"]) == pytest.approx(smoothest["acc"], abs=1e-3)
    assert float(row["unsmoothness_after"]) == pytest.approx(record[-1]["unsmoothness"], rel=1e-5)


def test_guesses_and_failures_are_reported_and_decide_nothing(field):
    run("--auto_tao")
    (row,) = rows()
    record = json.loads((folder_of(row) / "run.json").read_text())["epochs"]
    for part in ("trusted", "propagated"):
        assert 0 <= float(row[f"guess_acc_{part}_before"]) <= 100
        assert float(row[f"guess_acc_{part}_after"]) == pytest.approx(record[-1][f"guess_acc_{part}"], abs=1e-3)
    selected = read_rows(folder_of(row) / "selected.csv")
    wrong = [each["label"] != each["predicted class"] for each in selected]
    assert float(row["annotated_wrong"]) == pytest.approx(100 * np.mean(wrong), abs=1e-3)
    assert int(row["n_unlabelled"]) <= 200 - int(row["n_annotated"]) - int(row["n_propagated"])
    stages = sum(float(row[f"seconds_{stage}"]) for stage in table.STAGES)
    assert float(row["seconds_total"]) >= stages * (1 - 1e-5)  # each has six digits


def test_the_network_that_is_repaired_is_compiled_too(field, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    run("--solution", "random", "--compile")
    trained = []
    monkeypatch.setattr(hybridrepair.run.course, "finetune", lambda model, *args, genuine=hybridrepair.run.course.finetune, **more: (
        trained.append(model), genuine(model, *args, **more))[1])
    run("--solution", "gini", "--compile")
    assert any(each is trained[0] for each in compiled)


# --- calls and files of the published code

PUBLISHED = ["--dataset", "small", "--manualSeed", "10", "--model2test_arch", "MobileNet", "--model2test_path",
             "./checkpoint/small/ckpt_bias/MobileNet_0_b.t7", "--model_number", "0", "--step", "100", "--p_budget", "5",
             "--save_path", "save/2022-07-18/small_MobileNet_100", "--data_path", "data", "--solution", "TTA", "--retrain_lr", "0.001",
             "--retrain_weightdecay", "5e-4", "--retrain_epoch", "1", "--retrain", "--exp", "0", "--eps", "0.3", "--lam_ul", "100",
             "--min_samples", "3", "--fe", "model2test", "--cluster", "hybrid", "--avg_clustersize", "10", "--tao", "0.1",
             "--sel_u_data", "--u_weight", "--auto_tao", "--sel_l_data"]


def test_a_published_call_ends_in_the_call_of_repair_which_then_runs_with_published_files(field, capsys, monkeypatch):
    shutil.move("check_point", "checkpoint")
    monkeypatch.setattr("sys.argv", ["selection.py", *PUBLISHED])
    with pytest.raises(SystemExit) as stop:
        errors.run(lambda: selection.main(selection.parse_args()))
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.count("\n") == 1
    call = shlex.split(message[message.index("python repair.py") + len("python repair.py"):])
    repair.main(repair.parse_args(call))
    (row,) = rows("save/2022-07-18/small_MobileNet_100")
    assert row["solution"] == "hybrid" and row["tau"] == row["tau_auto"] and not Path("check_point").exists()


def test_a_feature_extractor_in_the_published_folder_is_found(field, capsys):
    message = refused(capsys, "--fe", "mocov3")
    assert "no feature extractor check_point/small" in message
    published = Path("checkpoint/small/ckpt_pretrained_mocov3/checkpoint.pth.tar")
    published.parent.mkdir(parents=True)
    checkpoint.save(published, {"state_dict": {}})
    assert f"checkpoint {published} does not hold" in refused(capsys, "--fe", "mocov3")  # it is read


def test_files_in_the_published_folder_are_used_where_ours_has_none(field, capsys):
    shutil.move("check_point", "checkpoint")
    train = Path("checkpoint/small/ckpt_bias/biased_dataset/0/train.npy")
    np.save(train, np.load(train)[::-1])  # published sets are in the order of drawing
    run("--solution", "random")
    assert len(rows()) == 1 and not Path("check_point").exists()
    assert "drawn as for a model" not in capsys.readouterr().out


def test_a_biased_set_that_has_to_be_drawn_is_told(field, capsys):
    shutil.rmtree("check_point/small/ckpt_bias/biased_dataset")
    run("--solution", "random")
    told = [line for line in capsys.readouterr().out.splitlines() if "drawn as for a model of train.sh" in line]
    assert len(told) == 1 and "biased_dataset/0/train.npy" in told[0] and told[0].endswith("; the checkpoint names the same set")
    Path("elsewhere").mkdir()
    shutil.copy(MODEL_FILE, "elsewhere/mine.t7")
    run("--solution", "random", "--model2test_path", "elsewhere/mine.t7", "--save_path", "mine")
    assert "into mine/biased_dataset/0" in capsys.readouterr().out and not Path("elsewhere/biased_dataset").exists()
    drawn = [np.load(Path(folder) / "biased_dataset/0/train.npy").tolist() for folder in ("mine", "save/small_MobileNet")]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 120


@pytest.mark.parametrize("made, told", [({"train": "0123456789abcdef"}, "; the checkpoint names another set"), ({}, ""), (None, "")])
def test_a_drawn_set_is_compared_with_the_one_that_the_checkpoint_names(field, capsys, made, told):
    shutil.rmtree("check_point/small/ckpt_bias/biased_dataset")
    checkpoint.save(Path(MODEL_FILE), checkpoint.load(Path(MODEL_FILE)) | {"settings": made})
    run("--solution", "random")
    assert f"into save/small_MobileNet/biased_dataset/0{told}\n" in capsys.readouterr().out


def test_a_repaired_model_is_repaired_again_with_the_train_images_of_the_first_time(field):
    train = Path("check_point/small/ckpt_bias/biased_dataset/0/train.npy")
    np.save(train, np.load(train)[5:])  # of the user's own
    run("--solution", "random")
    folder = folder_of(rows()[0])
    shutil.rmtree("check_point/small/ckpt_bias/biased_dataset")
    run("--solution", "random", "--model2test_path", str(folder / "MobileNet_0_b_repaired.t7"), "--save_path", "second")
    again = np.load(folder_of(rows("second")[0], "second") / "biased_dataset/0/train.npy")
    assert len(again) == 115 and not (folder / "biased_dataset/0/val.npy").exists()


@pytest.mark.parametrize("change", ["a label of T2", "an image of the pool", "mean", "what is replayed"])
def test_a_run_on_other_data_is_not_taken_for_done_and_no_baseline_is(field, capsys, change):
    run("--solution", "random")
    before = len(list(field.rglob("*_finetuned_*.t7")))
    if change == "mean":
        content = json.loads(Path("data/small/dataset.json").read_text())
        Path("data/small/dataset.json").write_text(json.dumps(content | {"mean": [0.5] * 3, "std": [0.5] * 3}))
    else:
        path = Path({"a label of T2": "data/small/labels.npy", "an image of the pool": "data/small/images.npy",
                     "what is replayed": "check_point/small/ckpt_bias/biased_dataset/0/train.npy"}[change])
        array = np.load(path)
        at = {"a label of T2": 230, "an image of the pool": 400, "what is replayed": 0}[change]
        array[at] = (array[at] + 1) % 4
        np.save(path, array[1:] if change == "what is replayed" else array)
    capsys.readouterr()
    run("--solution", "random")
    assert "done already" not in capsys.readouterr().out and len(rows()) == 2
    assert len(list(field.rglob("*_finetuned_*.t7"))) == before + (change in ("mean", "what is replayed"))


def test_published_flags_without_a_meaning_change_nothing(field, capsys):
    run("--solution", "random")
    run("--solution", "random", "--step", "100", "--latent_space_plot", "--tcp", "55")
    assert len(rows()) == 1 and "done already" in capsys.readouterr().out


@pytest.mark.parametrize("n, percent, budget", [
    (10_000, 0.57, 57), (10_000, 0.29, 29), (35_000, 1.0, 350), (847, 1.0, 8), (200, 0.5, 1)])
def test_a_budget_is_a_share_of_the_pool_in_exact_numbers(n, percent, budget):
    assert budget_of(percent, n) == budget


@pytest.mark.parametrize("stage", ["baseline", "repair"])
def test_an_interrupted_run_leaves_nothing_half_written_and_the_next_gives_the_same(field, stage, monkeypatch):
    run("--save_path", "whole")
    if stage == "baseline":
        baselines()[0].unlink()
    module = baseline if stage == "baseline" else hybridrepair.run.course
    genuine = module.finetune

    def stops(*args, **kwargs):
        yield next(genuine(*args, **kwargs))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "finetune", stops)
    with pytest.raises(KeyboardInterrupt):
        run("--save_path", "cut")
    monkeypatch.setattr(module, "finetune", genuine)
    assert not Path("cut/results.csv").exists()
    assert stage == "repair" or not baselines()
    assert not list(field.rglob("*.tmp"))
    run("--save_path", "cut")
    whole, cut = rows("whole")[0], rows("cut")[0]
    assert [whole[name] for name in ("acc_before", "acc_after")] == [cut[name] for name in ("acc_before", "acc_after")]


KILLED = f"""
import os, signal, sys
import repair
from mymodels import mobilenet
mobilenet.BLOCKS = {SHALLOW}
from hybridrepair.run import output
from hybridrepair.training import passes
name, last, calls = sys.argv.pop(1), int(sys.argv.pop(1)), []
module = output if name == "write_selected" else passes
genuine = getattr(module, name)
def deadly(*args, **more):
    calls.append(1)
    if len(calls) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return genuine(*args, **more)
setattr(module, name, deadly)
repair.main(repair.parse_args())
"""


@pytest.fixture
def killed(python):
    """A function that runs repair.py until the n-th call of a function, at which it kills itself."""
    def killed(name: str, call: int, *flags: str) -> None:
        done = subprocess.run([python, "-c", KILLED, name, str(call), *FLAGS, *flags], env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert done.returncode == -signal.SIGKILL
    return killed


def test_without_an_unlabelled_image_left_a_killed_repair_goes_on_too(field, killed, capsys):
    killed("smoothed_loss", 6, "--solution", "SSLRandom", "--p_budget", "100")  # in the second epoch, of supervised passes alone
    run("--solution", "SSLRandom", "--p_budget", "100")
    assert "going on after epoch 1" in capsys.readouterr().out and rows()[0]["n_unlabelled"] == "0"


def test_other_data_make_another_run_and_a_damaged_state_is_named_and_replaced_by_force(field, killed, capsys):
    flags = ["--solution", "random"]
    killed("write_selected", 1, *flags)
    (state,) = Path("save/small_MobileNet").rglob("repair.partial.t7")
    labels = np.load("data/small/labels.npy")
    np.save("data/small/labels.npy", np.where(np.arange(len(labels)) == 230, (labels + 1) % 4, labels))  # of T2
    run(*flags)
    assert "going on" not in capsys.readouterr().out and state.exists() and len(rows()) == 1
    np.save("data/small/labels.npy", labels)
    for each in states_of(state):
        each.write_bytes(each.read_bytes()[:1000])
    assert "cannot be read" in refused(capsys, *flags)
    run(*flags, "--force")
    assert len(rows()) == 2 and not state.exists()


# --- annotators

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


# --- what is refused

def damage(path: str, content: bytes | dict) -> None:
    Path(path).write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)


MODEL_FILE = "check_point/small/ckpt_bias/MobileNet_0_b.t7"


@pytest.mark.parametrize("flags, parts", [
    (["--dataset", "smal"], ["dataset smal is unknown", "cifar10", "digits"]),
    (["--model_number", "1"], ["no model under repair", "MobileNet_1_b.t7", "MODEL_NOS=1 sh train.sh"]),
    (["--model2test_path", "none.t7"], ["no model under repair none.t7", "correct --model2test_path", "train.sh"]),
    (["--fe", "mocov3"], ["no feature extractor", "DATASET=small PRETRAIN_FE=1 sh train.sh"]),
    (["--fe", "nowhere.pth.tar"], ["no feature extractor nowhere.pth.tar"]),
    (["--p_budget", "0"], ["budget of 0 percent", "more than 0"]),
    (["--p_budget", "101"], ["budget of 101 percent", "at most 100"]),
    (["--p_budget", "0.1"], ["0 images", "at least 0.5"]),
    (["--p_budget", "nan"], ["budget"]),
    (["--labels", "none.csv"], ["labels file none.csv", "cannot be read"]),
    (["--device", "abacus"], ["device abacus cannot be used"]),
], ids=lambda value: "_".join(value) if value[0].startswith("--") else "")
def test_wrong_input_is_named(field, capsys, flags, parts):
    message = refused(capsys, *flags)
    assert all(part in message for part in parts), message
    assert not Path("save").exists()


@pytest.mark.parametrize("flags, part", [(["--solution", "mpc"], "mpc"), (["--model2test_arch", "VGG"], "VGG"),
                                         (["--retrain_epoch", "0"], "0 is out of range"), (["--pbudget", "1"], "--pbudget")])
def test_wrong_flags_are_named_with_those_to_choose_from(capsys, flags, part):
    with pytest.raises(SystemExit) as stop:
        repair.parse_args(flags)
    message = capsys.readouterr().err
    assert stop.value.code == 2 and part in message and message.count("\n") == 1


@pytest.mark.parametrize("content, part", [
    (b"", "cannot be read"), (None, "cannot be read"), ({"weights": 1}, "is no state_dict"),
    ({"net": {"fc.weight": torch.zeros(2, 2)}}, "does not fit MobileNet")],
    ids=["empty", "truncated", "foreign", "mismatching"])
def test_checkpoint_that_cannot_be_used_is_named(field, capsys, content, part):
    damage(MODEL_FILE, Path(MODEL_FILE).read_bytes()[:1000] if content is None else content)
    message = refused(capsys)
    assert MODEL_FILE in message and part in message


def test_checkpoint_of_another_number_of_classes_is_named(field, capsys):
    description = json.loads(Path("data/small/dataset.json").read_text())
    description["classes"].append("four")
    Path("data/small/dataset.json").write_text(json.dumps(description))
    message = refused(capsys)
    assert "linear.weight is (4, 1024), not (5, 1024)" in message and "number of classes" in message


@pytest.mark.parametrize("line, part", [("12,two", "image '12' is not in the pool"), ("340,seven", "'seven' is no class"),
                                        ("x,two", "image 'x'")])
def test_labels_file_with_an_unknown_row_is_named_with_its_line(field, capsys, line, part):
    Path("answers.csv").write_text(f"index,label\n341,two\n{line}\n")
    message = refused(capsys, "--labels", "answers.csv")
    assert "answers.csv, line 3" in message and part in message


def test_labels_file_without_an_answer_that_is_needed_says_so(field, capsys):
    Path("answers.csv").write_text("index,label\n341,two\n")
    message = refused(capsys, "--labels", "answers.csv")
    assert "labels file answers.csv has no label for" in message and "--labels" in message
    assert not Path("save/small_MobileNet/results.csv").exists()


@pytest.mark.parametrize("flags, told", [
    (["--solution", "random", "--retrain_lr", "1e30"], ["finite; lower --retrain_lr than 1e+30, the likely cause"]),
    (["--solution", "random", "--retrain_lr", "1e300"], ["step 1 of the supervised pass", "lower --retrain_lr than 1e+300"]),
    (["--solution", "random", "--retrain_weightdecay", "1e300"], ["lower --retrain_weightdecay than 1e+300"]),
    (["--solution", "hybrid+", "--distill_lr", "1e300"], ["step 1 of the distillation pass", "lower --distill_lr than 1e+300"]),
    pytest.param(["--solution", "SSLRandom", "--lam_ul", "1e300"], ["step 1 of the SSL pass: the loss is not", "than 1e+300"],
                 marks=pytest.mark.long)])
def test_what_is_not_finite_is_told_with_epoch_step_and_cause_and_nothing_is_written(field, capsys, flags, told):
    before = {path: path.read_bytes() for path in baselines()}
    message = refused(capsys, *flags)
    assert message.startswith("error: epoch ") and " of fine-tuning, " in message and all(part in message for part in told)
    of_regions = {"selection.partial.t7"} if "hybrid+" in flags else set()  # regions and soft labels are as they are, at any rate
    assert not list(Path().rglob("results.csv")) and {path.name for path in Path("save").rglob("*.t7")} == of_regions
    finished = [path for path in baselines() if ".partial" not in path.name]
    assert {path: path.read_bytes() for path in finished} == before
    if "1e30" in flags:  # the state of an earlier step may have been kept
        assert refused(capsys, *flags) == message


def test_one_labelled_image_that_batch_norm_cannot_train_on_is_told(field, capsys):
    message = refused(capsys, "--solution", "random", "--no_replay", "--p_budget", "0.5")
    assert message.startswith("error: one labelled image alone cannot be trained on (") and "--p_budget" in message
    assert not list(Path("save").rglob("results.csv"))


@pytest.mark.parametrize("name, value, told", [
    ("linear.weight", np.nan, "linear.weight has values that are"), ("bn1.running_var", np.inf, "bn1.running_var has values that are"),
    ("linear.weight", 3e38, ": the logits or features of ")])
@pytest.mark.parametrize("entry", [repair, selection])
def test_a_model_whose_weights_or_logits_are_not_finite_is_named_before_anything_is_trained(field, capsys, name, value, told, entry):
    content = checkpoint.load(MODEL_FILE)
    content["net"][name].view(-1)[::2] = value
    checkpoint.save(MODEL_FILE, content)
    message = refused(capsys, "--solution", "random", entry=entry)
    assert message.startswith(f"error: checkpoint {MODEL_FILE}") and told in message and "not finite; " in message
    assert len(baselines()) == 1 and not list(Path().rglob("results.csv"))


def test_what_breaks_in_the_measurement_after_an_epoch_is_told_with_it(field, capsys, monkeypatch):
    genuine = hybridrepair.run.course.Course.measure

    def overflowing(training, model, record):
        if record["epoch"] == 2:
            model.linear.bias.data.fill_(np.inf)
        genuine(training, model, record)

    monkeypatch.setattr(hybridrepair.run.course.Course, "measure", overflowing)
    message = refused(capsys, "--solution", "random")
    assert "error: after epoch 2 of fine-tuning, the logits or features of 120 of 120 images are not finite; lower --" in message
    (state,) = Path("save").rglob("repair.partial.t7")
    assert checkpoint.load(state)["model"]["linear.bias"].isfinite().all() and not list(Path().rglob("results.csv"))


# --- image folders

def test_a_folder_whose_names_are_hardly_text_is_repaired(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    classes = ["a$b^$ ", os.fsdecode(b"caf\xe9")]
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 8), ("test", 8), ("field", 40)):
        for i in range(count):
            path = Path("data/pets", part, *([classes[i % 2]] if part != "field" or i < 30 else []), f"{i}{classes[i % 2]}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 120, (9, 12, 3), dtype=np.uint8)
            noise[..., i % 2] += 100
            Image.fromarray(noise).save(path)
    Path("data/pets/field/damaged.gif").write_text("no image")
    flags = ["--dataset", "pets", "--img_size", "16", "--device", "cpu"]
    train_classifier.main(train_classifier.parse_args([*flags, "--data_root", "data", "--n_epochs", "1", "--skip_bad"]))
    args = repair.parse_args([*flags, "--data_path", "data", "--fe", "model2test", "--p_budget", "50", "--retrain_epoch", "1",
                              "--solution", "random", "--labels", "labels.csv"])
    # annotators see a name without its space, and what is not UTF-8 escaped
    answers = "".join(f"{index},{('a$b^$', text_of(classes[1]))[index % 2]}\n" for index in range(40, 80))
    Path("labels.csv").write_text("index,label\n" + answers)
    errors.run(repair.main, args)
    (row,) = rows("save/pets_MobileNet")
    folder = folder_of(row, "save/pets_MobileNet")
    selected = read_rows(folder / "selected.csv")
    assert len(selected) == 20 and {each["label"] for each in selected} == {"a$b^$", text_of(classes[1])}
    assert any(each["file"].endswith(r"caf\udce9.png") for each in selected)
    assert "img_size=16" in row["settings"] and (folder / "per_class.png").is_file()
    assert text_of(classes[1]) in (folder / "report.html").read_text(encoding="utf-8")
