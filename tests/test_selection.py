"""selection.py: what it refuses, and that answers are not written over."""
import json
import sys

import numpy as np
import pytest

import selection
from hybridrepair.base.errors import run
from hybridrepair.base.rows import write_rows
from hybridrepair.run import output
from hybridrepair.run.scenario import Scenario
from hybridrepair.selection.solutions import SOLUTIONS


@pytest.fixture
def called(tmp_path, monkeypatch, capsys):
    """A function that calls selection.py with these words in a folder that has a dataset `mine` and a model under repair of it.

    It returns the one line on stderr of the refusal, which must have exit status 2 and leave nothing written.
    """
    monkeypatch.chdir(tmp_path)
    for folder in ("dataset/mine", "check_point/mine/ckpt_bias"):
        (tmp_path / folder).mkdir(parents=True)
    np.save("dataset/mine/images.npy", np.zeros((50, 8, 8, 3), dtype=np.uint8))
    np.save("dataset/mine/labels.npy", np.arange(50) % 2)
    split = {"train": [0, 10], "val": [10, 20], "T2": [20, 30], "pool": [30, 50]}
    (tmp_path / "dataset/mine/dataset.json").write_text(json.dumps({"split": split}))
    (tmp_path / "check_point/mine/ckpt_bias/MobileNet_0_b.t7").write_bytes(b"read only by those that need its weights")

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["selection.py", "--dataset", "mine", "--device", "cpu", *words])
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as exit:
            run(selection.main, selection.parse_args())
        assert exit.value.code == 2 and sorted(tmp_path.rglob("*")) == before
        message = capsys.readouterr().err
        assert message.startswith("error: ") and message.count("\n") == 1
        return message.strip()
    return call


@pytest.mark.parametrize("place", [0, 2])
def test_retrain_is_refused_with_the_call_that_does_it(called, place):
    words = ["--solution", "mcp", "--save_path", "my results"]
    words.insert(place, "--retrain")
    assert called(*words).endswith("python repair.py --dataset mine --device cpu --solution mcp --save_path 'my results'")


@pytest.mark.parametrize("solution", ["hybrid", "TTA"])
def test_a_repair_that_annotates_nothing_has_nothing_to_select(called, solution):
    message = called("--solution", solution, "--sel_u_data", "--p_budget", "10")
    assert "nothing is annotated" in message and "--sel_l_data" in message


def test_labels_that_were_filled_in_are_not_written_over(called):
    words = ["--dataset", "mine", "--device", "cpu", "--solution", "gini", "--p_budget", "10"]
    folder = output.Run(Scenario(selection.parse_args(words))).folder
    path = folder.with_name(f"selection_{folder.name}") / "selected.csv"
    write_rows(path, ("index", "label"), [{"index": 30}, {"index": 31, "label": 1}])
    message = called(*words[2:])
    assert str(path) in message and "--labels" in message and "--force" in message


def test_answers_are_for_repair(called):
    assert "--labels is for repair.py" in (message := called("--labels", "selected.csv")) and "--labelled" in message


def test_a_folder_that_holds_something_is_not_written_into(called):
    message = called("--solution", "gini", "--p_budget", "10", "--out", "dataset", "--force")
    assert "dataset is there already and holds other things" in message


@pytest.mark.parametrize("budget", ["0", "-1", "101", "4"])
def test_a_budget_of_no_image_or_beyond_the_pool_is_refused(called, budget):
    assert f"a budget of {budget} percent" in called("--p_budget", budget)


def test_an_unknown_solution_is_refused_with_those_that_there_are(called):
    message = called("--solution", "mcpp")
    assert "'mcpp'" in message and all(solution in message for solution in SOLUTIONS)
