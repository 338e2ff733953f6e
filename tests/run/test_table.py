"""table.py: which run a row is of, and that no row is lost, doubled or mixed: by processes at once, kills, or spreadsheets."""
import csv
import errno
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import tables
from conftest import LONGEST, in_processes, names_in, read_rows, refusal
from hybridrepair.base import locks, processes
from hybridrepair.base.files import write_json
from hybridrepair.base.rows import write_rows
from hybridrepair.run import table
from hybridrepair.run.output import Run

SETTINGS = {"retrain_lr": 0.001, "retrain_epoch": 10, "sel_u_data": True, "lam_ul": 100.0, "fe": "mocov3", "weights": "9f"}
FORK = multiprocessing.get_context("fork")  # starts at once: torch is imported here already


def scenario(save_path: Path | None = None, settings: dict = SETTINGS, seed: int = 10, **args) -> SimpleNamespace:
    args = {"dataset": "digits", "model2test_arch": "MobileNet", "model_number": 0, "solution": "hybrid", "p_budget": 1.0,
            "save_path": save_path and str(save_path), "manualSeed": seed} | args
    return SimpleNamespace(args=SimpleNamespace(**args), settings=settings, checkpoint_path=Path("MobileNet_0_b.t7"))


def run_of(*args, **more) -> Run:
    return Run(scenario(*args, **more))


def finish(result: dict, *args, **more) -> Run:
    """Leave the run.json of a run, as the end of a repair does, but no row in results.csv."""
    task = scenario(*args, **more)
    run = Run(task)
    write_json(run.folder / "run.json", {"args": vars(task.args), "settings": task.settings, "result": result})
    return run


def enter(result: dict, *args, **more) -> Run:
    run = finish(result, *args, **more)
    run.enter()
    return run


def lines(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def told(path: Path, *columns: str) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in columns) for row in read_rows(path / "results.csv")]


@pytest.mark.parametrize("value, text", [(None, ""), (True, "1"), (False, "0"), (10, "10"), (1000000, "1000000"), (1.0, "1"),
                                         (0.5, "0.5"), (5e-4, "0.0005"), (200 / 3, "66.6667"), ("0.10", "0.10")])
def test_a_value_is_told_in_up_to_six_digits_without_trailing_zeros(value, text):
    assert table.short(value) == text


# which run it is

def test_a_run_is_known_by_its_data_model_solution_budget_seed_and_settings():
    assert run_of(p_budget=0.5).identity == {
        "dataset": "digits", "model": "MobileNet", "model_number": "0", "solution": "hybrid", "p_budget": "0.5", "seed": "10",
        "settings": "retrain_lr=0.001 retrain_epoch=10 sel_u_data=1 lam_ul=100 fe=mocov3 weights=9f"}


def test_a_run_has_a_folder_beside_results_csv(tmp_path):
    run = run_of(tmp_path, model_number=2, p_budget=0.5, seed=30)
    assert run.results == tmp_path / "results.csv" and run.folder.parent == tmp_path
    assert re.fullmatch("2_hybrid_0.5_30_[0-9a-f]{8}", run.folder.name)
    assert run_of().results == Path("save/digits_MobileNet/results.csv")


OTHERS = {"dataset": {"dataset": "svhn"}, "model": {"model2test_arch": "resnet18"}, "model_number": {"model_number": 1},
          "solution": {"solution": "mcp"}, "p_budget": {"p_budget": 5.0}, "seed": {"seed": 20},
          "settings": {"settings": SETTINGS | {"lam_ul": 50.0}}}


@pytest.mark.parametrize("name", table.IDENTITY)
def test_another_identity_is_another_folder_and_another_row(tmp_path, name):
    run, other = run_of(tmp_path), run_of(tmp_path, **OTHERS[name])
    assert run.folder != other.folder and run.folder == run_of(tmp_path).folder
    enter({"acc_after": 70.0}, tmp_path, **OTHERS[name])
    assert run.find() is None and other.find()["acc_after"] == "70"
    enter({"acc_after": 80.0}, tmp_path)
    assert run.find()["acc_after"] == "80" and other.find()["acc_after"] == "70"


@pytest.mark.parametrize("without", ["results.csv", "run.json"])
def test_a_run_is_found_in_its_folder_and_in_the_table(tmp_path, without):
    run = enter({"acc_after": 80.0}, tmp_path)
    (run.results if without == "results.csv" else run.folder / "run.json").unlink()
    assert run.find()["acc_after"] == "80"


def test_a_row_of_an_earlier_version_is_that_of_its_run(tmp_path):
    run = run_of(tmp_path)
    write_rows(run.results, (*table.IDENTITY, "acc_after"), [run.identity | {"acc_after": "80"}])  # without judged_on, n_known, run ...
    assert run.find()["acc_after"] == "80"
    enter({"acc_after": 90}, tmp_path, seed=20)
    assert told(tmp_path, "seed", "acc_after") == [("10", "80"), ("20", "90")]
    enter({"acc_after": 81}, tmp_path)
    assert told(tmp_path, "seed", "acc_after") == [("10", "81"), ("20", "90")] and read_rows(run.results)[0]["run"] == run.folder.name


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"args": {}}', b'{"args": 1, "settings": {}, "result": {}}', b"\xff\xfe",
                                     b"[" * 100_000])
def test_a_folder_whose_run_json_is_damaged_has_no_row(tmp_path, content):
    run = run_of(tmp_path)
    run.folder.mkdir()
    (run.folder / "run.json").write_bytes(content)
    assert run.find() is None


def test_a_copy_of_a_folder_is_no_run_of_its_own(tmp_path):
    run = enter({"acc_after": 80.0}, tmp_path)
    shutil.copytree(run.folder, tmp_path / "kept for later")
    enter({"acc_after": 90.0}, tmp_path, seed=20)
    assert told(tmp_path, "run") == [(run.folder.name,), (run_of(tmp_path, seed=20).folder.name,)]


def test_a_run_is_cut_off_where_its_last_state_is_there_still_and_not_where_it_is_being_done_again(tmp_path):
    run = finish({"acc_after": 80.0}, tmp_path)
    assert not run.cut_off()
    run.state.touch()
    os.utime(run.state, ns=(0, (run.folder / "run.json").stat().st_mtime_ns - 1))
    assert run.cut_off()
    os.utime(run.state, ns=(0, (run.folder / "run.json").stat().st_mtime_ns + 1))
    assert not run.cut_off()


def test_what_a_run_has_kept_goes_once_it_is_finished_but_not_what_it_keeps_where_it_is_done_again(tmp_path):
    run = finish({"acc_after": 80.0}, tmp_path)
    run.interim.touch()
    record = (run.folder / "run.json").stat().st_mtime_ns
    os.utime(run.interim, ns=(0, record + 1))
    run.clean()
    assert run.interim.exists()
    os.utime(run.interim, ns=(0, record))
    run.clean()
    assert not run.interim.exists()


def test_numbers_that_differ_beyond_six_digits_make_other_runs(tmp_path):
    assert [table.exact(value) for value in (0.001, 1 / 3, True, None)] == ["0.001", "0.3333333333333333", "1", ""]
    assert run_of(p_budget=12.34567).identity != run_of(p_budget=12.345671).identity
    assert run_of(settings=SETTINGS | {"lam_ul": 1 + 1e-9}).folder != run_of(settings=SETTINGS | {"lam_ul": 1.0}).folder
    run = finish({"acc_after": 80.0}, tmp_path, settings=SETTINGS | {"lam_ul": 1 + 1e-9}, p_budget=100 / 3)
    assert run.find()["acc_after"] == "80"


# rows

def test_a_row_has_every_column_and_is_empty_where_the_run_has_nothing_to_say(tmp_path):
    assert run_of(tmp_path).find() is None
    run = enter({"n_annotated": 8, "propagation_acc": None, "acc_after": 250 / 3, "versions": "python 3, torch 2"}, tmp_path)
    head, row = lines(run.results)
    assert tuple(head) == table.COLUMNS
    told = {"n_annotated": "8", "acc_after": "83.3333", "versions": "python 3, torch 2", "run": run.folder.name}
    assert dict(zip(head, row)) == dict.fromkeys(table.COLUMNS, "") | run.identity | told
    assert run.find() == dict(zip(head, row))


def test_a_row_replaces_that_of_the_same_run_in_its_place_and_no_other(tmp_path):
    for i, seed in enumerate((10, 20, 30)):
        enter({"acc_after": i, "acc_smoothest": i}, tmp_path, seed=seed)
    enter({"acc_after": 50.5}, tmp_path, seed=20)
    assert told(tmp_path, "seed", "acc_after", "acc_smoothest") == [("10", "0", "0"), ("20", "50.5", ""), ("30", "2", "2")]


def test_columns_and_rows_of_the_user_stay(tmp_path):
    run = enter({"acc_after": 80.0}, tmp_path)
    rows = [row | {"remark": "mine, and good"} for row in read_rows(run.results)] + [{"dataset": "another's", "remark": "copied"}]
    write_rows(run.results, (*reversed(table.COLUMNS), "remark"), rows)
    enter({"acc_after": 81.0}, tmp_path)
    enter({"acc_after": 90.0}, tmp_path, seed=20)
    assert told(tmp_path, "dataset", "acc_after", "remark") == [
        ("digits", "81", "mine, and good"), ("another's", "", "copied"), ("digits", "90", "")]


def test_rows_without_a_folder_are_told_apart_by_what_they_were_made_with():
    rows = [{"dataset": "digits", "seed": seed, "acc_after": "80"} for seed in ("10", "20", "30")]
    assert table.merged([], rows) == rows
    later = [rows[1] | {"acc_after": "81"}]
    assert table.merged([row | {"run": ""} for row in rows], later) == [rows[0] | {"run": ""}, later[0], rows[2] | {"run": ""}]


def test_a_result_of_a_later_version_is_kept(tmp_path):
    run = enter({"acc_after": 80.0, "calibration": 0.25}, tmp_path)
    assert run.find()["calibration"] == "0.25" and lines(run.results)[0] == [*table.COLUMNS, "calibration"]


def test_a_table_that_has_everything_is_not_written_again(tmp_path):
    run = enter({"acc_after": 80.0}, tmp_path)
    before = run.results.stat()
    run.enter()
    assert run.results.stat().st_ino == before.st_ino and names_in(tmp_path) == sorted([run.folder.name, "results.csv"])


def test_folders_that_the_table_has_are_not_read(tmp_path, monkeypatch):
    for seed in range(5):
        enter({"acc_after": seed}, tmp_path, seed=seed)
        os.utime(run_of(tmp_path, seed=seed).folder / "run.json", ns=(0, 0))
    read = []
    monkeypatch.setattr(table, "row_of", lambda folder, genuine=table.row_of: (read.append(folder), genuine(folder))[1])
    run = enter({"acc_after": 80.0}, tmp_path)
    assert {*read} == {run.folder} and len(told(tmp_path, "run")) == 6


def test_a_run_that_is_done_again_replaces_its_row_however_new_the_table_is(tmp_path):
    run = enter({"acc_after": 80.0}, tmp_path)
    os.utime(run.results, (time.time() + 100,) * 2)  # another process has written it since
    finish({"acc_after": 81.0}, tmp_path)
    run.enter()
    assert told(tmp_path, "acc_after") == [("81",)]


def test_a_run_that_ends_between_the_reading_of_its_folder_and_a_slow_writing_of_the_table_is_entered(tmp_path, monkeypatch):
    for seed in (10, 20):
        finish({"acc_after": 80.0}, tmp_path, seed=seed)

    def slow(path, rows, genuine=table.write):
        monkeypatch.setattr(table, "write", genuine)
        finish({"acc_after": 81.0}, tmp_path, seed=10)
        genuine(path, rows)
        os.utime(path, (time.time() + 100,) * 2)

    monkeypatch.setattr(table, "write", slow)
    run_of(tmp_path, seed=20).enter()
    assert sorted(told(tmp_path, "seed", "acc_after")) == [("10", "81"), ("20", "80")]


def test_a_row_of_a_killed_run_is_entered_by_the_next(tmp_path):
    finish({"acc_after": 80.0}, tmp_path)
    enter({"acc_after": 90.0}, tmp_path, seed=20)
    assert sorted(told(tmp_path, "seed", "acc_after")) == [("10", "80"), ("20", "90")]


def test_a_table_that_cannot_be_written_costs_a_line_since_the_folder_has_the_row(tmp_path, capsys):
    (tmp_path / "results.csv").mkdir()
    run = enter({"acc_after": 80.0}, tmp_path)
    error = capsys.readouterr().err
    assert f"{run.results} could not be written (IsADirectoryError" in error and error.count("\n") == 1
    assert f"python tables.py --rebuild {tmp_path} makes it" in error and run.find()["acc_after"] == "80"


def test_of_several_processes_none_waits_for_ever_where_the_table_cannot_be_written(tmp_path):
    (tmp_path / "results.csv").mkdir()
    run = finish({"acc_after": 80.0}, tmp_path)

    def work(rank: int) -> None:
        run.enter()
        (tmp_path / f"got_{rank}").write_text(processes.led(lambda: f"from {rank}"))

    assert [ended.status for ended in in_processes(2, tmp_path, work)] == [0, 0]
    assert [(tmp_path / f"got_{rank}").read_text() for rank in (0, 1)] == ["from 0", "from 0"]


# what spreadsheets and accidents leave

def saved(content: str, form: str) -> bytes:
    """A results.csv as a spreadsheet saves it."""
    rows = [*csv.reader(content.splitlines())]
    if "semicolon" in form or "tab" in form:
        content = "".join((";" if "semicolon" in form else "\t").join(row) + "\n" for row in rows)
    return content.replace("\n", "\r\n").encode("utf-16" if "utf-16" in form else "utf-8-sig" if "mark" in form else "cp1252")


@pytest.mark.parametrize("form", ["comma mark", "semicolon mark", "semicolon cp1252", "tab utf-16", "semicolon utf-16", "comma cp1252"])
def test_a_table_that_a_spreadsheet_saved_loses_no_row_and_is_ours_again(tmp_path, capsys, form):
    first = enter({"acc_after": 80.0, "device": "cpu"}, tmp_path)
    alone = run_of(tmp_path, seed=30)
    changed = first.identity["settings"].replace("0.001", "1,00E-03") if "semicolon" in form else first.identity["settings"]
    rows = [row | {"remark": "größer", "settings": changed} for row in read_rows(first.results)]
    rows += [alone.identity | {"acc_after": "70", "remark": "nur hier"}]
    write_rows(first.results, (*table.COLUMNS, "remark"), rows)
    content = saved(first.results.read_text(encoding="utf-8"), form)
    first.results.write_bytes(content)
    second = enter({"acc_after": 90.0}, tmp_path, seed=20)
    assert told(tmp_path, "settings", "seed", "acc_after", "remark") == [
        (first.identity["settings"], "10", "80", "größer"), (alone.identity["settings"], "30", "70", "nur hier"),
        (second.identity["settings"], "20", "90", "")]
    assert b"\r" not in first.results.read_bytes() and alone.find()["acc_after"] == "70"
    error, kept = capsys.readouterr().err, [*tmp_path.glob("results_as_found_*.csv")]
    if "cp1252" in form:  # a guess
        assert "results.csv is no CSV file in UTF-8: it is kept as " + kept[0].name in error and error.count("\n") == 1
        assert [path.read_bytes() for path in kept] == [content]
    else:
        assert error == "" and kept == []


@pytest.mark.parametrize("content, fault", [
    (b"\x89PNG\r\n\x1a\n\x00\xff", "is no CSV file in UTF-8"), (b"index,label\n1,cat\n", "has no column dataset, model, model_number"),
    (b"dataset,model\ndigits\n", "row 1 has not as many cells as there are columns"), (b"\0" * 300, "has no column dataset"),
    (b"a\n" + b"x" * 200_000, "is no CSV file")], ids=["binary", "foreign", "short row", "zeros", "huge cell"])
def test_a_damaged_table_is_kept_aside_and_made_anew_from_the_folders(tmp_path, capsys, content, fault):
    finish({"acc_after": 80.0}, tmp_path)
    (tmp_path / "results.csv").write_bytes(content)
    enter({"acc_after": 90.0}, tmp_path, seed=20)
    assert sorted(told(tmp_path, "seed", "acc_after")) == [("10", "80"), ("20", "90")]
    (kept,) = tmp_path.glob("results_as_found_*.csv")
    error = capsys.readouterr().err
    assert kept.read_bytes() == content and error.count("\n") == 1 and fault in error and kept.name in error


def test_an_empty_table_is_filled_from_the_folders(tmp_path):
    finish({"acc_after": 80.0}, tmp_path)
    (tmp_path / "results.csv").touch()
    enter({"acc_after": 90.0}, tmp_path, seed=20)
    assert len(told(tmp_path, "seed")) == 2 and not [*tmp_path.glob("results_as_found_*")]


# made again

def test_tables_are_made_again_from_the_folders_of_runs(tmp_path, capsys):
    for name in ("a", "b"):
        for seed in (10, 20):
            enter({"acc_after": seed}, tmp_path / name, seed=seed)
    expected = [read_rows(tmp_path / name / "results.csv") for name in ("a", "b")]
    (tmp_path / "a" / "results.csv").unlink()
    doubled = expected[1] + [row | {"acc_after": "0"} for row in expected[1]]
    write_rows(tmp_path / "b" / "results.csv", table.COLUMNS, doubled)
    (tmp_path / "b" / "moved").mkdir()
    shutil.copy(run_of(tmp_path / "a").folder / "run.json", tmp_path / "b" / "moved")
    tables.main(tables.parse_args(["--rebuild", str(tmp_path)]))
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'a' / 'results.csv'}: 2 runs",
        f"{tmp_path / 'b' / 'results.csv'}: 2 runs; left out, since run.json is damaged or of another folder: moved"]
    for name, rows in zip(("a", "b"), expected):
        assert sorted(map(str, read_rows(tmp_path / name / "results.csv"))) == sorted(map(str, rows))
    assert "there is no run in" in refusal(tables.main, tables.parse_args(["--rebuild", str(tmp_path / "a" / "nothing")]))


# processes at once

def work(folder: Path, process: int, n: int, locks_to_be_had: bool) -> None:
    """Finish n runs and enter each, those that are found excepted; every tenth is done a second time, with another result."""
    if not locks_to_be_had:
        def refuse(file, how):
            raise OSError(errno.ENOLCK, "No locks available")
        locks.fcntl.flock = refuse
    for seed in range(n * process, n * process + n):
        run = run_of(folder, seed=seed)
        if run.find() is None:
            enter({"acc_after": seed if seed % 10 else -1, "fixed": seed, "device": f"process {process}"}, folder, seed=seed)
        else:
            run.enter()
        if not seed % 10:
            enter({"acc_after": seed, "fixed": seed, "device": f"process {process}"}, folder, seed=seed)


def together(folder: Path, processes: int, n: int, kills: int, pause: float, locks_to_be_had: bool) -> int:
    """Let processes work side by side, some of them killed, `pause` seconds apart at most, and started again; returns how many."""
    rng, killed, running = random.Random(0), 0, {}
    for process in range(processes):
        running[process] = FORK.Process(target=work, args=(folder, process, n, locks_to_be_had))
        running[process].start()
    while running:
        if killed < kills:
            time.sleep(rng.uniform(0, pause))
            victim = rng.choice(sorted(running))
            running[victim].kill()
        else:
            victim = min(running)
        running[victim].join(LONGEST)
        if running[victim].exitcode == -signal.SIGKILL:
            killed += 1
            running[victim] = FORK.Process(target=work, args=(folder, victim, n, locks_to_be_had))
            running[victim].start()
        else:
            assert running.pop(victim).exitcode == 0
    return killed


def whole(folder: Path, processes: int, n: int) -> None:
    """Every run has one row, its own."""
    head, *rows = lines(folder / "results.csv")
    assert tuple(head) == table.COLUMNS and len(rows) == processes * n
    found = sorted((int(seed), *more) for seed, *more in told(folder, "seed", "acc_after", "fixed", "device", "run"))
    assert found == [(i, str(i), str(i), f"process {i // n}", run_of(folder, seed=i).folder.name) for i in range(processes * n)]
    assert all(row_in == table.row_of(folder / row_in["run"]) for row_in in read_rows(folder / "results.csv"))


@pytest.mark.parametrize("locks_to_be_had", [True, False])
def test_processes_side_by_side_lose_double_and_mix_no_rows_though_some_are_killed(tmp_path, locks_to_be_had):
    folders = (tmp_path / str(attempt) for attempt in range(5))
    folder = next(each for each in folders if together(each, 3, 15, 4, 0.2, locks_to_be_had) > 0)  # else all ended before a kill
    whole(folder, 3, 15)


@pytest.mark.long
@pytest.mark.parametrize("locks_to_be_had", [True, False])
def test_eight_processes_of_200_rows_lose_double_and_mix_no_rows_though_some_are_killed(tmp_path, locks_to_be_had):
    assert together(tmp_path, 8, 200, 60, 2, locks_to_be_had) > 30
    whole(tmp_path, 8, 200)


def test_a_table_that_another_process_replaced_between_is_written_again(tmp_path, monkeypatch):
    enter({"acc_after": 1}, tmp_path, seed=1)
    genuine, late = table.write_rows, []

    def write(path, columns, rows):
        genuine(path, columns, rows)
        if not late:  # one without a lock, that read the table before
            late.append(True)
            finish({"acc_after": 3}, tmp_path, seed=3)
            genuine(path, columns, [row for row in rows if row["seed"] != "2"] + [table.row_of(run_of(tmp_path, seed=3).folder)])

    monkeypatch.setattr(table, "write_rows", write)
    enter({"acc_after": 2}, tmp_path, seed=2)
    assert sorted(told(tmp_path, "seed", "acc_after")) == [("1", "1"), ("2", "2"), ("3", "3")]


def test_the_row_of_a_run_is_what_its_folder_says(tmp_path):
    run = finish({"acc_after": 80.0}, tmp_path)
    record = json.loads((run.folder / "run.json").read_text())
    assert table.identity_of(record["args"], record["settings"]) == run.identity and table.name_of(run.identity) == run.folder.name
