"""results/ablations.py: what each variant trains on, the rows that they leave, and their table."""
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import CALL, names_in, read_rows, refusal, results_script, write_trained
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.run import course


@pytest.fixture
def ablations(tmp_path, monkeypatch):
    """The script, whose rows go to a folder of the test."""
    monkeypatch.chdir(tmp_path)
    write_trained(tmp_path)
    labels = np.load("data/small/labels.npy")
    labels[340::3] = (labels[340::3] + 1) % 4  # of the pool, so that not all propagated labels are right
    np.save("data/small/labels.npy", labels)
    module = results_script("ablations")
    monkeypatch.setattr(module, "TABLE", tmp_path / "ablations.csv")
    return module


def flags(*more: str) -> list[str]:
    return [*CALL, "--dataset", "small", "--p_budget", "5", "--fe", "model2test", "--pool_share", "0.5", "--seeds", "10", *more]


def test_each_variant_trains_on_what_its_name_says(ablations, monkeypatch):
    seen, genuine = {}, course.finetune

    def noted(model, normalise, train, recipe, chosen, **more):
        seen[len(seen)] = (recipe, chosen, more, {name: value.clone() for name, value in model.state_dict().items()})
        return genuine(model, normalise, train, recipe, chosen, **more)

    monkeypatch.setattr(course, "finetune", noted)
    args = ablations.parse_args(flags())
    ablations.main(args)
    rows = {row["variant"]: row for row in read_rows(ablations.TABLE)}
    assert [*rows] == [name for name in ablations.VARIANTS if name not in (ablations.MOCO, "features of the model", "rate 0.001")]
    assert {row["pool"] for row in rows.values()} == {"100"} and len({row["acc_before"] for row in rows.values()}) == 1
    of = dict(zip(rows, seen.values()))
    recipe, chosen, more, start = of["hybrid"]
    known, weights = more["known"], more["unlabelled"]
    dataset = ablations.cut(ablations.data.load("small", "data"), 0.5)
    truth = dataset.labels[dataset.split["pool"]]
    propagated = int(rows["hybrid"]["n_propagated"])
    assert propagated > 0 and len(chosen.labels) == propagated + 5 == int((known != UNKNOWN).sum())
    assert all(start[name].equal(other[3][name]) for other in of.values() for name in start)
    assert of["SSL off"][2]["unlabelled"] is None and of["mcp"][2]["unlabelled"] is None
    assert len(of["propagation off"][1].labels) == 5 == len(of["mcp"][1].labels) and rows["propagation off"]["n_propagated"] == "0"
    assert (truth[known != UNKNOWN] == known[known != UNKNOWN].numpy()).mean() < 1
    published = known.numpy()
    made_true, half = (of[name][2]["known"].numpy() for name in ("propagated labels true", "half of the wrong ones true"))
    assert ((made_true != UNKNOWN) == (published != UNKNOWN)).all() and (made_true == truth)[made_true != UNKNOWN].all()
    alone = of["labels true, SSL off"]
    assert alone[2]["unlabelled"] is None and (alone[1].labels.numpy() == truth[published != UNKNOWN]).all()
    wrong = np.flatnonzero((published != UNKNOWN) & (published != truth))
    assert len(wrong) > 1 and np.flatnonzero(half != published).tolist() == wrong[::2].tolist() and (half == truth)[wrong[::2]].all()
    without = 100 - len(chosen.labels) - 1  # the most unsmooth image of all has weight 0
    assert int(rows["hybrid"]["n_unlabelled"]) < without == int(rows["tau off"]["n_unlabelled"]) and rows["tau off"]["tau"] == ""
    assert of["SSL alone"][1] is None
    assert set(of["weights off"][2]["unlabelled"].weights) <= {0.0, 1.0} and len(set(weights.weights)) > 2
    assert of["estimated statistics"][0].estimated_statistics and not recipe.estimated_statistics
    assert of["label smoothing off"][0].smoothing == 0 and recipe.smoothing == 0.1
    assert (of["20 epochs"][0].epochs, of["rate 0.003"][0].lr, of["rate 0.01"][0].lr) == (20, 0.003, 0.01)


def test_frozen_statistics_stay_while_all_else_trains(ablations, monkeypatch):
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    monkeypatch.setattr(ablations.Trusting, "run", lambda self, model, *more: model.train()(torch.full((8, 2), 5.0)))
    seen = ablations.Frozen.run(object.__new__(ablations.Frozen), model, None, print)
    assert model[0].running_mean.tolist() == [0, 0] and model[0].num_batches_tracked == 0 and model[1].training
    assert set(seen.flatten().round(decimals=2).tolist()) <= {0.0, 10.0}  # 5 by a mean of 0 and a variance of 1, dropped or doubled


def test_without_rows_there_is_no_table(ablations):
    assert "no rows" in refusal(ablations.table)


def test_what_the_table_has_is_not_run_again_and_its_means_are_those_of_its_rows(ablations, monkeypatch):
    args = flags("--variants", "mcp", "hybrid", "--seeds", "20", "30")
    ablations.main(ablations.parse_args(args))
    before = ablations.TABLE.read_bytes()
    monkeypatch.setattr(ablations, "perform", None)
    ablations.main(ablations.parse_args(args))
    assert ablations.TABLE.read_bytes() == before and names_in(Path("save/ablations")) == []
    rows = read_rows(ablations.TABLE)
    ours, mcp = ([float(row["acc_after"]) for row in rows if row["variant"] == name] for name in ("hybrid", "mcp"))
    assert len(ours) == len(mcp) == 2
    head, *lines = ablations.table().splitlines()
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in lines if line.startswith("|")}
    assert head.startswith("tiny.py:build A, small, pool 100, 5 annotated, T2 accuracy ")
    assert cells["mcp"][1] == "2" and cells["mcp"][2].startswith(f"{np.mean(mcp):.2f} ± {np.std(mcp, ddof=1):.2f}")
    assert cells["mcp"][3].startswith(f"{np.mean(mcp) - np.mean(ours):+.2f}".replace("-", "−")) and cells["hybrid"][3] == "–"


def test_force_replaces_a_row_and_check_leaves_none(ablations):
    call = flags("--variants", "mcp", "random")
    ablations.main(ablations.parse_args([*call, "--check"]))
    assert not ablations.TABLE.exists()
    ablations.main(ablations.parse_args(call))
    before = ablations.TABLE.read_text()
    rows = read_rows(ablations.TABLE)
    ablations.TABLE.write_text(before.replace(f",{rows[0]['acc_after']},", ",1.25,", 1))
    ablations.main(ablations.parse_args([*call[:-1], "--force"]))
    again = {row["variant"]: row["acc_after"] for row in read_rows(ablations.TABLE)}
    assert len(read_rows(ablations.TABLE)) == 2 and again == {row["variant"]: row["acc_after"] for row in rows}


def test_a_variant_that_diverges_leaves_no_row_and_the_others_run(ablations, monkeypatch, capsys):
    monkeypatch.setitem(ablations.VARIANTS, "rate 0.01", ablations.Variant({"retrain_lr": 1e30}))
    args = ablations.parse_args(flags("--variants", "rate 0.01", "random"))
    assert "rate 0.01, seed 10: epoch 1" in refusal(ablations.main, args)
    assert [row["variant"] for row in read_rows(ablations.TABLE)] == ["random"] and "no row for rate 0.01" in capsys.readouterr().out


def test_an_interrupted_variant_goes_on_from_its_state(ablations, monkeypatch):
    args = flags("--variants", "hybrid", "--retrain_epoch", "3")
    ablations.main(ablations.parse_args(args))
    whole = read_rows(ablations.TABLE)[0]["acc_after"], read_rows(ablations.TABLE)[0]["unsmoothness_after"]
    ablations.TABLE.unlink()
    genuine, epochs = course.Trusting.measure, []

    def measure(self, model, record):
        epochs.append(record["epoch"])
        if epochs == [1, 2]:
            raise KeyboardInterrupt
        genuine(self, model, record)

    monkeypatch.setattr(course.Trusting, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        ablations.main(ablations.parse_args(args))
    ablations.main(ablations.parse_args(args))
    assert epochs[:2] == [1, 2] and epochs[2] in (2, 3) and epochs[-1] == 3
    again = read_rows(ablations.TABLE)[0]
    assert (again["acc_after"], again["unsmoothness_after"]) == whole
