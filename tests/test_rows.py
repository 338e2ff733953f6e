"""results/rows.py: rows of runs replace those of the same runs in a table, and cost no other row."""
from pathlib import Path

import pytest

from conftest import ROOT, read_rows, refusal, results_script
from hybridrepair.base.rows import write_rows
from hybridrepair.run.table import COLUMNS

rows = results_script("rows")


def row(seed: int, acc: float, folder: str) -> dict:
    return {"dataset": "digits", "model": "MobileNet", "model_number": "2", "solution": "mcp", "p_budget": "5", "seed": str(seed),
            "settings": "retrain_lr=0.01", "acc_after": str(acc), "run": f"2_mcp_5_{seed}_{folder}"}


def put(*words: str) -> None:
    rows.main(rows.parse_args(list(words)))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write_rows(tmp_path / "one/results.csv", COLUMNS, [row(10, 80, "a"), row(20, 81, "a")])
    write_rows(tmp_path / "two/results.csv", COLUMNS, [row(20, 82, "a"), row(30, 83, "a")])
    return tmp_path


def test_rows_of_the_same_run_are_replaced_and_all_others_stay(folder):
    put("kept/table.csv", "one/results.csv")
    put("kept/table.csv", "two/results.csv")
    found = [(each["seed"], each["acc_after"]) for each in read_rows(Path("kept/table.csv"))]
    assert found == [("10", "80"), ("20", "82"), ("30", "83")]


def test_names_that_a_spreadsheet_would_compute_stay_protected(folder):
    write_rows(Path("one/results.csv"), COLUMNS, [row(10, 80, "a") | {"dataset": "'=1+1"}])
    for _ in range(2):
        put("table.csv", "one/results.csv")
        assert [each["dataset"] for each in read_rows(Path("table.csv"))] == ["'=1+1"]


def test_a_column_tells_which_folder_a_row_is_from(folder):
    put("table.csv", "--column", "round", "one/results.csv", "two/results.csv")
    assert [(each["seed"], each["round"]) for each in read_rows(Path("table.csv"))] == [("10", "one"), ("20", "two"), ("30", "two")]


def test_the_tables_of_this_folder_lose_nothing_to_a_run_of_another(folder):
    for path in sorted(ROOT.glob("results/digits/*.csv")):
        before = read_rows(path)
        Path("table.csv").write_bytes(path.read_bytes())
        put("table.csv", "one/results.csv")
        after = read_rows(Path("table.csv"))
        assert [{name: each[name] for name in before[0]} for each in after[:len(before)]] == before and len(after) == len(before) + 2


@pytest.mark.parametrize("words, told", [(["table.csv", "none/results.csv"], "there is no none/results.csv"),
                                         (["table.csv", "one/results.csv"], "table.csv has no column dataset")])
def test_what_is_no_table_is_named_and_left_as_it_is(folder, words, told):
    Path("table.csv").write_text("a,b\n1,2\n")
    assert told in refusal(rows.main, rows.parse_args(words))
    assert Path("table.csv").read_text() == "a,b\n1,2\n"
