"""Solutions, clusterings, tau and the halves of hybrid, each through repair.py."""

import pytest

from conftest import read_rows
from hybridrepair.selection.solutions import SOLUTIONS
from small import folder_of, rows, run


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
