"""results/controls.py: what it trains on, and the row that it leaves."""
import csv
from pathlib import Path

import pytest

from conftest import CALL, read_rows, refusal, results_script, write_trained


@pytest.fixture
def controls(tmp_path, monkeypatch):
    """The script, whose rows go to a folder of the test."""
    monkeypatch.chdir(tmp_path)
    write_trained(tmp_path)
    module = results_script("controls")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    Path("results").mkdir()
    return module


def test_a_control_takes_the_steps_of_hybrid_plus_and_leaves_a_row(controls, monkeypatch):
    seen, genuine = [], controls.finetune

    def noted(model, normalise, train, recipe, pool, targets):
        seen.append((len(pool), len(set(targets.argmax(1).tolist())), len(train.labels)))
        return genuine(model, normalise, train, recipe, pool=pool, targets=targets)

    monkeypatch.setattr(controls, "finetune", noted)
    args = [*CALL, "--dataset", "small", "--p_budget", "10", "--distill_lr", "0.5"]
    controls.main(controls.parse_args([*args, "--solution", "mcp"]))
    controls.main(controls.parse_args([*args, "--no_answers", "--retrain_epoch", "20"]))
    assert seen == [(200, 4, 120)] * 2
    with open("results/small/controls.csv", newline="") as file:
        asked, none = csv.DictReader(file)
    assert (asked["solution"], asked["n_annotated"], asked["epochs"], asked["distill_lr"]) == ("mcp", "20", "1", "0.5")
    assert (none["solution"], none["n_annotated"], none["epochs"], none["precision"]) == ("none", "0", "20", "float32")
    assert float(none["acc_after"]) > float(none["acc_before"]) + 20


def test_a_table_with_a_column_of_somebody_s_own_keeps_it_and_a_damaged_one_is_told_before_the_training(controls, monkeypatch):
    path, call = Path("results/small/controls.csv"), [*CALL, "--dataset", "small", "--p_budget", "10"]
    path.parent.mkdir()
    path.write_text("dataset,note\nsmall,mine\n")
    controls.main(controls.parse_args(call))
    first, second = read_rows(path)
    assert (first["note"], second["note"], second["n_annotated"]) == ("mine", "", "20")
    path.write_text("dataset,note\nsmall,mine,more\n")
    monkeypatch.setattr(controls, "finetune", None)
    assert "row 1 has not as many cells" in refusal(lambda: controls.main(controls.parse_args(call)))
    assert path.read_text() == "dataset,note\nsmall,mine,more\n"


def test_a_check_trains_nothing(controls):
    controls.main(controls.parse_args([*CALL, "--dataset", "small", "--p_budget", "10", "--check"]))
    assert not Path("results/small").exists()
