"""benchmarks/: each case at a small size, the table that run.py writes, and growth.py's measurements and exponents."""
import json
import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import cases
import floor
import growth
import repair
import run
import scaling
import stages
import train_classifier
from conftest import write_small
from mymodels import mobilenet

ROOT = Path(__file__).resolve().parent.parent


RESULT = {"case": "badge", "title": "badge", "size": "10 x 4", "scale": 1, "target": 50, "memory_target": 0.1, "threads": 2,
          "seconds": {"published": [9.0, 11.0, 10.0], "ours": [0.2, 0.1, 0.4]}, "ratio": 50.0,
          "memory_mb": {"published": 100.0, "ours": 9.0}, "agreement": "10 of 10 picks are the same",
          "machine": {"cpu": "A", "cores": 2, "capability": "AVX2", "python": "3", "torch": "2", "torchvision": "0", "numpy": "2",
                      "scikit-learn": "1"}}


# a script whose measurements are forks, in place of interpreters that import all anew
FORKING = """
import multiprocessing, runpy, sys
context = multiprocessing.get_context
multiprocessing.get_context = lambda kind: context("fork")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SHALLOW = ((64, 2), (1024, 2))  # channels and stride of blocks


@pytest.fixture(scope="module")
def call(python) -> Callable[..., subprocess.CompletedProcess]:
    """A function that runs a script of benchmarks/ with flags."""
    first = [python] if python == sys.executable else [python, "-c", FORKING]
    return lambda script, *flags: subprocess.run([*first, ROOT / "benchmarks" / script, *flags], capture_output=True, text=True,
                                                 timeout=300)


@pytest.mark.parametrize("name, scale, agreement", [
    ("augmix", 0.01, "180 images each"), ("coreset", 0.03, "10 of 10 picks are the same"),
    ("badge", 0.03, "10 of 10 picks are the same"), ("regions", 0.03, "same noise set (")])
@pytest.mark.usefixtures("stable_sort")
def test_both_sides_of_a_case_agree(name, scale, agreement):
    case = cases.CASES[name].make(scale)
    assert case.agreement(case.ours(), case.published()).startswith(agreement)


def test_unsmoothness_of_both_sides_is_alike(monkeypatch):
    monkeypatch.setattr(mobilenet, "BLOCKS", SHALLOW)
    case = cases.CASES["unsmoothness"].make(0.02)
    assert case.ours() == pytest.approx(case.published(), abs=0.05)


@pytest.mark.parametrize("name", ["ssl", "epoch"])
def test_both_sides_of_a_training_case_run(name, monkeypatch):
    monkeypatch.setattr(mobilenet, "BLOCKS", SHALLOW)
    case = cases.CASES[name].make(0.01)
    case.ours()
    case.published()


def test_disagreement_is_said():
    case = cases.CASES["regions"].make(0.03)
    label = case.ours()
    other = label.copy()
    other[np.flatnonzero(label >= 0)[0]] = -1
    assert case.agreement(label, other).startswith("noise differs in 1 of 1,050 points")
    assert cases.same_picks(np.array([1, 2]), np.array([1, 3])) == "1 of 2 picks are the same"


def test_published_network_is_ours_in_another_layout():
    x = torch.randn(2, 3, 32, 32)
    ours, theirs = (cases.network(form).eval() for form in ("ours", "published"))
    assert ours(x)[0].allclose(theirs(x)[0], atol=1e-5)
    assert not any(type(module).__name__ in ("Depthwise", "Pointwise") for module in theirs.modules())


def test_a_row_tells_median_and_range_and_whether_the_target_is_met():
    line = run.row(RESULT)
    assert "| 10 (9 to 11) | 0.2 (0.1 to 0.4) | 50.0 | 50, memory 0.1 | met | 100 / 9 |" in line
    assert "**missed**" in run.row(RESULT | {"ratio": 49.9})
    assert "**missed**" in run.row(RESULT | {"memory_mb": {"published": 100.0, "ours": 11.0}})


def test_the_tables_in_the_readmes_are_those_of_the_results(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    (tmp_path / "badge.json").write_text(json.dumps(RESULT))
    for name in ("README", "FRONT"):
        monkeypatch.setattr(run, name, tmp_path / name)
        (tmp_path / name).write_text(f"before\n{run.MARKS[0]}\nold\n{run.MARKS[1]}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["run.py", "--table"])
    run.main()
    texts = [(tmp_path / name).read_text() for name in ("README", "FRONT")]
    assert all(text.startswith("before\n") and text.endswith("after\n") and "old" not in text for text in texts)
    assert run.row(RESULT) in texts[0] and "Measured on A (AVX2), 2 cores" in texts[0]
    assert "| badge | 10 x 4 | 10 | 0.2 | 50.0 |" in texts[1]


def test_the_tables_of_the_repository_are_those_of_its_results():
    for path, made in ((run.README, run.table()), (run.FRONT, run.summary())):
        text = path.read_text()
        assert made in text[text.index(run.MARKS[0]):text.index(run.MARKS[1])]
    text = growth.README.read_text()
    rows = json.loads((growth.RESULTS / "growth_cpu.json").read_text())["rows"]
    assert growth.table(rows) in text[text.index(growth.MARKS[0]):text.index(growth.MARKS[1])]
    result = json.loads((stages.RESULTS / "stages_cpu.json").read_text())
    assert stages.text(result) in text[text.index(stages.MARKS[0]):text.index(stages.MARKS[1])]


def test_run_measures_both_sides_and_leaves_the_table_at_a_small_scale(call):
    before = run.README.read_text()
    done = call("run.py", "coreset", "--scale", "0.03", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    cells = [cell.strip() for cell in done.stdout.strip().strip("|").split("|")]
    assert cells[:2] == ["coreset", "1,050 x 1,024, budget 10"] and float(cells[2]) > 0 and cells[-1].startswith("10 of 10")
    assert run.README.read_text() == before


@pytest.mark.parametrize("script, flags, named", [("run.py", ["nonsense"], "there is no case nonsense"),
                                                  ("run.py", ["--scale", "0"], "--scale"), ("growth.py", ["--sizes", "10"], "1000")])
def test_bad_input_is_named(call, script, flags, named):
    done = call(script, *flags)
    assert done.returncode == 2 and named in done.stderr.splitlines()[-1]


def test_growth_measures_what_is_missing_and_keeps_the_rest(tmp_path, call):
    flags = ["--sizes", "1000", "1500", "--output", str(tmp_path), "--solution"]
    first = call("growth.py", *flags, "gini")
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "growth_cpu.png").exists()
    rows = json.loads((tmp_path / "growth_cpu.json").read_text())["rows"]
    second = call("growth.py", *flags, "gini", "hybrid")
    again = json.loads((tmp_path / "growth_cpu.json").read_text())["rows"]
    assert list(rows) == ["gini"] and list(again) == ["gini", "hybrid"] and again["gini"] == rows["gini"]
    assert list(again["hybrid"]) == ["1000", "1500"] and all(row["seconds"] > 0 for row in again["hybrid"].values())
    assert "| hybrid | " in second.stdout


def test_growth_sets_cells_beside_the_exact_regions(tmp_path, call):
    flags = ["--sizes", "1000", "--output", str(tmp_path), "--solution", "hybrid --cell_size 5000"]
    assert "exact" not in call("growth.py", *flags).stdout
    done = call("growth.py", *flags, "hybrid", "--force")
    assert done.returncode == 0, done.stderr
    again = call("growth.py", *flags, "--force")  # 1000 points are one cell of 5000
    assert "exact regions: inertia +0.00 %, noise alike for 100.00 % of the points at 1,000." in again.stdout


ROWS = {"read": {"1000": {"seconds": 1.0, "mb": 500.0}, "2000": {"seconds": 2.0, "mb": 600.0}},
        "features": {"1000": {"seconds": 3.0, "mb": 700.0}}, "unsmoothness": {"1000": {"seconds": 1.0, "mb": 1.0},
                                                                              "2000": {"seconds": 4.0, "mb": 1.0}}}


def test_a_stage_is_predicted_by_the_power_of_its_smaller_sizes():
    assert stages.predicted(ROWS["unsmoothness"], 10_000) == pytest.approx(100)
    assert stages.predicted(ROWS["features"], 10_000) == pytest.approx(30)  # of one size: in proportion
    assert stages.predicted(ROWS["read"], 1000) is None
    assert stages.predicted({"1000": {"seconds": 3.0}, "2000": {"seconds": 2.0}}, 4000) == pytest.approx(4)
    table = stages.table(ROWS)
    assert "| read | 1 / 500 | 2 / 600 | *1,000 predicted* | 1.00 |" in table
    assert "| features | 3 / 700 | *6 predicted* | *3,000 predicted* | - |" in table


def test_stages_beyond_the_limit_and_what_needs_them_are_left_out():
    assert stages.wanted({}, 1000, 10, False) == list(stages.STAGES)
    assert "unsmoothness" not in stages.wanted(ROWS, 10_000, 99, False)
    assert "unsmoothness" in stages.wanted(ROWS, 10_000, 101, False)
    assert stages.wanted(ROWS, 10_000, 29, False) == ["read", "predictions"]  # no regions without features
    assert stages.wanted(ROWS | {each: ROWS["read"] for each in ("predictions", "regions", "choice")}, 2000, 99, False) == ["features"]
    measured = {each: ROWS["read"] for each in stages.STAGES if each != "choice"}
    assert stages.wanted(measured, 2000, 99, False) == ["predictions", "features", "regions", "choice"]
    assert stages.wanted({each: ROWS["read"] for each in stages.STAGES}, 2000, 99, False) == []


def test_stages_measures_what_is_missing_of_a_whole_selection(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mobilenet, "BLOCKS", SHALLOW)
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: multiprocessing.context.ForkContext())
    flags = ["stages.py", "--sizes", "1000", "--output", str(tmp_path / "out"), "--scratch", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*flags, "--cell_size", "300"])
    stages.main()
    rows = json.loads((tmp_path / "out/stages_cpu.json").read_text())["rows"]
    assert list(rows) == list(stages.STAGES) and all(row["1000"]["seconds"] > 0 for row in rows.values())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    stages.main()
    assert json.loads((tmp_path / "out/stages_cpu.json").read_text())["rows"] == rows
    monkeypatch.setattr(sys, "argv", ["stages.py", "--sizes", "10"])
    with pytest.raises(SystemExit):
        stages.main()
    assert "1000 images or more" in capsys.readouterr().err


def test_exponent_of_a_power():
    assert growth.exponent([10, 100, 1000], [3 * n ** 1.5 for n in (10, 100, 1000)]) == pytest.approx(1.5)
    row = {size: dict.fromkeys(growth.LEAST, 3e9 * int(size)) for size in ("10", "100")}
    assert growth.slope(row, next(iter(growth.LEAST))) == "1.00"
    assert growth.slope({"10": row["10"]}, next(iter(growth.LEAST))) == "-"


def test_floor_measures_each_step_on_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(mobilenet, "BLOCKS", SHALLOW)
    monkeypatch.setattr(sys, "argv", ["floor.py", "--device", "cpu", "--scale", "0.003", "--output", str(tmp_path)])
    floor.main()
    result = json.loads((tmp_path / "floor_cpu_float32.json").read_text())
    assert [row["case"].split(",")[0] for row in result["rows"]] == ["training epoch", "SSL pass", "unsmoothness pass",
                                                                     "noise points and regions"]
    assert all(0 < row["share"] < math.inf for row in result["rows"])


def test_work_of_a_network_by_hand():
    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = torch.nn.Conv2d(3, 4, 1, bias=False), torch.nn.Linear(4, 2)

        def forward(self, x):
            x = self.conv(x).mean((2, 3))
            return self.linear(x), x

    operations, moved = floor.work(Small(), torch.randn(5, 3, 8, 8))
    assert operations == 2 * (3 * 4 * 64 + 4 * 2)
    assert moved == (3 + 4) * 64 + (4 + 2)


def test_scaling_measures_each_step_and_tells_how_many_times_as_fast_each_number_of_processes_is(tmp_path, monkeypatch, capsys):
    def turn(n: int, args, words: list[str]) -> dict[str, float]:
        monkeypatch.setattr(sys, "argv", ["scaling.py", *words, "--measure", str(tmp_path / "told.json")])
        scaling.main()
        return {title: 6.0 / n for title, took in json.loads((tmp_path / "told.json").read_text()).items() if took > 0}

    monkeypatch.setattr(mobilenet, "BLOCKS", SHALLOW)
    monkeypatch.setattr(scaling, "turn", turn)
    monkeypatch.setattr(scaling, "steps_of", lambda *given: dict([*floor.steps_of(*given).items()][:1]))
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--device", "cpu", "--scale", "0.003", "--repeats", "1", "--output", str(tmp_path),
                                      "--processes", "1", "2", "3"])
    scaling.main()
    assert "| training epoch, 3 images | 6 | 3 | 2 | 2.00, 3.00 |" in capsys.readouterr().out
    result = json.loads((tmp_path / "scaling_cpu.json").read_text())
    assert result["seconds"]["3"] == {"training epoch, 3 images": [2.0]} and result["threads"] == 1


@pytest.mark.parametrize("count, numbers", [(2, [1, 2]), (6, [1, 3, 6]), (8, [1, 2, 4, 8])])
def test_scaling_measures_as_many_gpus_as_there_are_and_halves_of_them(count, numbers, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    monkeypatch.setattr(scaling, "turn", lambda n, args, words: seen.append(n) or {"step": 1.0})
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--device", "cuda", "--repeats", "1", "--output", str(tmp_path)])
    scaling.main()
    assert seen == numbers


@pytest.mark.parametrize("flags", [["--device", "cuda"], ["--device", "cpu", "--processes", "1"]])
def test_scaling_says_that_one_number_of_processes_has_nothing_to_be_compared_with(flags, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(sys, "argv", ["scaling.py", *flags])
    scaling.main()
    assert capsys.readouterr().out == "there is one number of processes, 1, so that there is nothing to compare\n"


@pytest.mark.parametrize("by", ["recorder", pytest.param("python", marks=pytest.mark.long)])
def test_gpu_script_runs_every_step_once_and_goes_on_after_its_limit(tmp_path, request, by):
    write_small(tmp_path / "data", pool=100)
    recorder = tmp_path / "recorder"
    recorder.write_text('#!/bin/sh\necho "$*" >> "$0.calls"\n')
    recorder.chmod(0o755)
    settings = {"PYTHON": str(recorder) if by == "recorder" else request.getfixturevalue(by), "DATASET": "small",
                "DATA_ROOT": str(tmp_path / "data"), "DEVICE": "cpu", "QUICK": "1", "OUT": str(tmp_path / "out"),
                "MODELS": str(tmp_path / "models")}

    def gpu(**more: str) -> subprocess.CompletedProcess:
        return subprocess.run(["sh", ROOT / "benchmarks" / "gpu.sh"], env=os.environ | settings | more, capture_output=True, text=True)

    early = gpu(LIMIT="0")
    assert early.returncode == 0 and "time is up before floor: call again" in early.stdout
    full = gpu()
    assert full.returncode == 0, full.stdout + full.stderr
    names = ["floor", "growth", "scaling", "train", "before", "mcp", "hybrid"]
    assert all((tmp_path / "out" / f"{name}.done").exists() for name in names) and "all done:" in full.stdout
    (tmp_path / "out" / "mcp.done").unlink()
    again = gpu()
    assert [line.split(":")[0] for line in again.stdout.splitlines() if "repair.py" in line] == ["mcp"]
    assert not list(ROOT.glob("check_point/small"))
    if by == "recorder":
        scripts = [line.split() for line in Path(f"{recorder}.calls").read_text().splitlines()]
        assert [words[0].split("/")[-1].removesuffix(".py") for words in scripts] == [
            "floor", "growth", "scaling", "train_classifier", "repair", "repair", "repair", "repair"]
        for script, *flags in scripts[3:]:  # the flags of the others are given to them by tests above
            {"repair.py": repair, "train_classifier.py": train_classifier}[script].parse_args(flags)


def test_gpu_script_names_the_log_of_a_step_that_fails(tmp_path, python):
    done = subprocess.run(["sh", ROOT / "benchmarks" / "gpu.sh"], capture_output=True, text=True,
                          env=os.environ | {"PYTHON": python, "DEVICE": "nonsense", "OUT": str(tmp_path)})
    assert done.returncode == 2 and f"error: floor failed; see {tmp_path}/floor.log" in done.stderr
