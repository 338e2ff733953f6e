"""Pools that degenerate and budgets at their edges, through repair.py: results make sense, and no image is asked beyond the budget."""
import math
from pathlib import Path

import numpy as np
import pytest

import repair
from conftest import CALL, read_rows, refusal, write_pool, write_tiny
from hybridrepair.annotation.oracle import Oracle
from hybridrepair.base import checkpoint, digests
from hybridrepair.selection.solutions import SOLUTIONS

NOISE = np.random.default_rng(1).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
POOLS = {  # images and labels
    "one image": (NOISE[:1], [1]),
    "two images": (NOISE[:2], [1, 0]),
    "four images, all noise": (NOISE[:4], [0, 1, 1, 0]),  # of five points HDBSCAN makes a cluster
    "one class": (NOISE, [1] * 24),
    "duplicates": (NOISE[:1].repeat(24, 0), [0, 1] * 12),
    "black": (np.zeros_like(NOISE), [0, 1] * 12),  # whose views are alike too, so that nothing tells one image from another
    "unlike": (NOISE, [0, 1] * 12)}
MEASURES = ("acc_raw", "acc_before", "acc_after", "acc_best", "annotated_wrong", "propagation_acc", "tau", "unsmoothness_before",
            "unsmoothness_after")


@pytest.fixture
def field(tmp_path, monkeypatch) -> Path:
    """A folder with a dataset of each pool and a model under repair, as the working directory."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path)
    for name, (images, labels) in POOLS.items():
        write_pool(tmp_path / "data", images, np.array(labels), name)
    return tmp_path


@pytest.fixture
def asked(monkeypatch) -> list[list[int]]:
    """The places in the pool that the annotator was asked for, a list for each time."""
    calls: list[list[int]] = []
    monkeypatch.setattr(Oracle, "annotate", lambda self, index, genuine=Oracle.annotate: (
        calls.append(index.tolist()), genuine(self, index))[1])
    return calls


def run(pool: str, solution: str, budget: int, *flags: str) -> dict[str, str]:
    """The row of a repair with so many annotations."""
    percent = str(100 * budget / len(POOLS[pool][1]))
    args = repair.parse_args([*CALL, "--dataset", pool, "--solution", solution, "--p_budget", percent, "--auto_tao", "--u_weight",
                              "--save_path", "out", *flags])
    repair.main(args)
    return read_rows(Path("out/results.csv"))[-1]


def budgets(n: int) -> list[int]:
    return sorted({1, max(1, n // 2), n})


def check(pool: str, solution: str, budget: int) -> None:
    """The row of a repair is whole, and what it says is possible."""
    row, n = run(pool, solution, budget), len(POOLS[pool][1])
    annotated, propagated, unlabelled = (int(row[f"n_{name}"]) for name in ("annotated", "propagated", "unlabelled"))
    assert annotated == budget and 0 <= propagated <= n - annotated and 0 <= unlabelled <= n - annotated - propagated
    assert all(0 <= float(row[name]) <= 100 for name in MEASURES if row[name])
    assert all(row[name] and math.isfinite(float(row[name])) for name in ("acc_raw", "acc_before", "acc_after", "annotated_wrong"))
    assert (row["n_propagated"] == "0") == (row["propagation_acc"] == "")
    selected = read_rows(Path("out", row["run"], "selected.csv"))
    assert len({each["index"] for each in selected}) == budget
    assert all(each["label"] == ("cat", "dog")[POOLS[pool][1][int(each["index"]) - 40]] for each in selected)
    weights = checkpoint.load(Path("out", row["run"], "tiny_repaired.pt"))
    assert all(value.isfinite().all() for value in weights.get("net", weights).values() if hasattr(value, "isfinite"))


@pytest.mark.parametrize("place, pool", [*enumerate(POOLS)], ids=POOLS)
def test_a_degenerate_pool_is_repaired_within_its_budget(field, unpainted, place, pool):
    """Here each solution on one pool or two; all of them on all pools by --all."""
    counts = budgets(len(POOLS[pool][1]))
    for budget in counts:
        check(pool, "hybrid", budget)
    for order, solution in enumerate([each for each in SOLUTIONS if each != "hybrid"][place % 6::6]):
        check(pool, solution, counts[(place + order) % len(counts)])


def test_a_pool_of_one_image_has_plots_and_a_report(field, capsys):
    row = run("one image", "hybrid", 1)
    assert (Path("out", row["run"]) / "report.html").is_file() and "could not be made" not in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("pool", POOLS)
def test_every_solution_repairs_every_degenerate_pool(field, capsys, pool):
    for solution in SOLUTIONS:
        for budget in budgets(len(POOLS[pool][1])):
            check(pool, solution, budget)
    for cluster in ("kmeans", "hdbscan", "dbscan"):
        run(pool, "hybrid", 1, "--cluster", cluster)
    assert "could not be made" not in capsys.readouterr().out


@pytest.mark.parametrize("percent", ["0", "4", "100.1"])  # 4 percent of 24 images are none
def test_a_budget_of_nothing_or_beyond_the_pool_is_refused(field, percent):
    for solution in SOLUTIONS:
        args = repair.parse_args([*CALL, "--dataset", "unlike", "--solution", solution, "--p_budget", percent])
        assert f"a budget of {percent} percent" in refusal(repair.main, args) and not Path("save").exists()


@pytest.mark.parametrize("solution", SOLUTIONS)
def test_no_image_is_asked_beyond_the_budget_or_twice_over_two_rounds(field, unpainted, asked, solution):
    for budget in (1, 12):
        asked.clear()
        first = run("unlike", solution, budget)
        taken = budget + int(first["n_propagated"])
        second = run("unlike", solution, budget, "--labelled", f"out/{first['run']}/selected.csv")
        assert int(second["n_known"]) == taken
        one, two = asked
        assert len(set(one)) == len(one) == budget and len(set(two)) == len(two) == min(budget, 24 - taken)
        assert not set(one) & set(two)
        assert [first["n_annotated"], second["n_annotated"]] == [str(len(one)), str(len(two))]
    everything = run("unlike", solution, 24)
    assert sorted(asked[-1]) == [*range(24)]
    flags = ["--dataset", "unlike", "--solution", solution, "--labelled", f"out/{everything['run']}/selected.csv", "--p_budget", "50"]
    assert "all 24 pool images are labelled" in refusal(repair.main, repair.parse_args([*CALL, *flags])) and len(asked) == 3


def test_the_unlabelled_half_alone_asks_nothing(field, unpainted, asked):
    assert run("unlike", "hybrid", 12, "--sel_u_data", "--exp", "-1")["n_annotated"] == "0" and asked == [[]]


@pytest.mark.parametrize("solution", ["hybrid", "mcp", "SSLConsistency", "SSLConsistency-Imp"])
def test_labels_that_were_not_asked_for_change_nothing(field, unpainted, asked, solution):
    def weights(row: dict[str, str]) -> str:
        return digests.of(Path("out", row["run"], "tiny_repaired.pt").read_bytes())

    first = run("unlike", solution, 6)
    labels = np.load("data/unlike/labels.npy")
    others = np.setdiff1d(np.arange(24), asked[0])
    labels[40 + others] = 1 - labels[40 + others]
    np.save("data/unlike/labels.npy", labels)
    second = run("unlike", solution, 6)
    assert asked[0] == asked[1] and first["run"] != second["run"] and weights(first) == weights(second)
