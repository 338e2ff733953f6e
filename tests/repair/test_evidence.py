"""Whose evidence a repair goes by: checkpoint or fine-tuned model, T2, labels of the pool."""
import json

import numpy as np
import pytest
import torch

import hybridrepair.run.course
import hybridrepair.run.scenario
import hybridrepair.selection.pool
import hybridrepair.training.baseline
from conftest import read_rows
from hybridrepair.base import checkpoint
from hybridrepair.run import table
from hybridrepair.selection.pool import Pool
from hybridrepair.selection.uncertainty import Tau
from small import baselines, folder_of, rows, run


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
