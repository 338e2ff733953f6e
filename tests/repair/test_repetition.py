"""The same call again: what is the same, what is another run, what is made once."""
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import repair
import selection
from conftest import read_rows
from hybridrepair.base import checkpoint
from hybridrepair.run import table
from small import baselines, folder_of, rows, run


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
    run("--check")
    assert capsys.readouterr().out == "checked: hybrid on small, 10 of 200 images to annotate\n"
    shutil.rmtree("check_point")
    told = "checked, but for the model's weights, which are not there yet: hybrid on small, 10 of 200 images to annotate\n"
    for entry in (repair, selection):
        run("--check", entry=entry)
        assert capsys.readouterr().out == told and not Path("save").exists() and not Path("check_point").exists()


def test_a_finished_run_is_skipped_and_force_does_it_again(field, capsys, monkeypatch):
    run("--solution", "mcp")
    first = capsys.readouterr().out.splitlines()[-1]
    with monkeypatch.context() as patch:
        patch.setattr(repair, "repair", lambda *_: pytest.fail("was done again"))
        run("--solution", "mcp")
    again = capsys.readouterr().out.splitlines()
    assert "done already" in again[-2] and again[-1] == first
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
