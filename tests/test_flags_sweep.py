"""Every flag of every entry and every variable of the scripts: a right value does what it says, a wrong one is refused.

A flag that is added needs a row in WRONG and a place in one of RIGHT; the tests fail until it has both.
"""
import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image

import pretrain_moco
import repair
import selection
import tables
import train_classifier
from conftest import read_rows
from hybridrepair.base import checkpoint, errors
from hybridrepair.base.rows import write_rows
from hybridrepair.run.flags import Parser
from mymodels.moco import ARCHITECTURES

ROOT = Path(__file__).parents[1]
ENTRIES = {"train": train_classifier, "pretrain": pretrain_moco, "select": selection, "repair": repair, "tables": tables}
NETWORK = """
from torch import nn


def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, num_classes))
"""

# --- right values: calls, in order, which together have every flag

IMAGES = "--dataset tiny --img_size 8 --skip_bad"
MACHINE = "--device cpu --precision bfloat16 --compile --num_workers 1"
UNDER_REPAIR = (f"{IMAGES} --data_path data --model2test_arch net.py:build --model2test_path models --model_number 1 --feature_layer 5 "
                "--batch_size 7 --fe model2test --p_budget 20 --avg_clustersize 3 --min_samples 2 --manualSeed 3 --retrain_lr 0.02 "
                "--retrain_epoch 1 --retrain_weightdecay 0 --save_path out --device cpu")
HYBRID = (f"{UNDER_REPAIR} {MACHINE} --solution hybrid --sel_l_data --sel_u_data --u_weight --disable_dynamic_u_weight "
          "--cluster hybrid --cell_size 12 --exp 0 --auto_tao --lam_ul 5 --estimated_statistics --micro_batch 64 --force "
          "--save_every 0 --report_to wandb --step 100 --latent_space_plot --tcp 55")
OTHERWISE = f"{UNDER_REPAIR} --cluster dbscan --eps 0.2 --tao 0.4 --no_replay --distill_lr 1"
CALLS = [
    ("train", f"{IMAGES} {MACHINE} --data_root data --model net.py:build --class_weight 1 --n_epochs 2 --lr 0.02 --batch_size 8 "
              "--manualSeed 3 --save_every 0 --save_path logs --checkpoint_path models --report_to wandb --force --pretrained "
              "--shadow"),
    ("train", f"{IMAGES} --data_root data --model net.py:build --class_weight 1 --checkpoint_path models --if_missing --n_epochs 3"),
    ("pretrain", f"{IMAGES} {MACHINE} --data_root data --save_path extractor --force --arch resnet18 --small_stem --dim 4 --mlp_dim 8 "
                 "--n_epochs 1 --n_images 16 --batch_size 8 --lr 0.5 --weight_decay 0 --warmup_epochs 0.5 --momentum 0.9 "
                 "--temperature 0.5 --manualSeed 3 --knn_every 1 --save_every 0 --report_to wandb"),
    ("repair", HYBRID + " --check"),
    ("repair", HYBRID),
    ("repair", OTHERWISE),
    ("repair", f"{UNDER_REPAIR} --avg_tao --exp 0"),
    ("select", f"{HYBRID} --out first --format label-studio folders"),
    ("select", f"{OTHERWISE} --out second --check"),
    ("select", f"{OTHERWISE} --labelled answered.csv --out second --allow_missing --avg_tao"),
    ("repair", f"{OTHERWISE} --labels some.csv --manifest second/manifest.json --allow_missing --labelled answered.csv"),
    ("repair", f"{UNDER_REPAIR} --solution hybrid+ --distill_lr 0.03"),
    ("tables", "out --rows solution dataset --columns p_budget --metric acc_best --format csv --output table.csv --plot plot.png"),
    ("tables", "out --details"),
    ("tables", "--report out"),
    ("tables", "--rebuild out"),
]
REFUSED_AT_ALL = {"select": {"--retrain", "--labels", "--manifest"}}  # of the shared flags, those that are repair.py's

# --- wrong values, and what is said where it is not the flag's name

SWITCH = "=1"  # a value where none is taken
FILE = "net.py"  # in place of a folder
UNKNOWN_DATA = {"--dataset": ("tinny", "dataset tinny is unknown"), "--img_size": "7", "--skip_bad": SWITCH}
WRONG_MACHINE = {"--device": ("abacus", "device abacus cannot be used"), "--precision": "float8", "--compile": SWITCH,
                 "--num_workers": "-1"}
SHARED = UNKNOWN_DATA | WRONG_MACHINE | {
    "--data_path": ("elsewhere", "dataset tiny is unknown"), "--model2test_arch": "VGG", "--feature_layer": ("99", "99"),
    "--model2test_path": ("none.t7", "no model under repair none.t7"), "--model_number": "3", "--batch_size": "0", "--solution": "mpc",
    "--p_budget": ("0", "budget of 0 percent"), "--labels": ("none.csv", "labels file none.csv"),
    "--manifest": ("none.json", "--labels"), "--labelled": ("none.csv", "none.csv"), "--allow_missing": SWITCH,
    "--fe": ("none.tar", "no feature extractor none.tar"),
    "--sel_l_data": SWITCH, "--sel_u_data": SWITCH, "--u_weight": SWITCH, "--disable_dynamic_u_weight": SWITCH, "--cluster": "round",
    "--avg_clustersize": "0", "--cell_size": "-1", "--eps": "2.5", "--min_samples": "0", "--exp": "1", "--tao": "1.5",
    "--auto_tao": SWITCH, "--avg_tao": SWITCH, "--retrain_lr": "0", "--distill_lr": "0",
    "--retrain_weightdecay": "-1", "--retrain_epoch": "0",
    "--lam_ul": "-1", "--estimated_statistics": SWITCH, "--no_replay": SWITCH, "--micro_batch": "1", "--manualSeed": "-1",
    "--save_path": (FILE, f"{FILE} cannot be used"), "--force": SWITCH, "--save_every": "nan", "--check": SWITCH,
    "--report_to": "paper", "--step": "far", "--latent_space_plot": SWITCH, "--tcp": "1.5"}
WRONG = {
    "train": UNKNOWN_DATA | WRONG_MACHINE | {
        "--data_root": ("elsewhere", "dataset tiny is unknown"), "--model": "VGG", "--class_weight": "3", "--n_epochs": "0",
        "--lr": "inf", "--batch_size": "1", "--manualSeed": "1.5", "--save_every": "-1",
        "--save_path": (FILE, f"{FILE} cannot be used"), "--checkpoint_path": (FILE, f"{FILE}/biased_dataset"),
        "--report_to": "paper", "--force": SWITCH, "--if_missing": SWITCH,
        "--pretrained": SWITCH, "--shadow": SWITCH},
    "pretrain": UNKNOWN_DATA | WRONG_MACHINE | {
        "--data_root": ("elsewhere", "dataset tiny is unknown"), "--save_path": (FILE, f"{FILE} cannot be used"), "--force": SWITCH,
        "--arch": "resnet34", "--small_stem": SWITCH, "--dim": "1", "--mlp_dim": "1", "--n_epochs": "0", "--n_images": "1",
        "--batch_size": "1", "--lr": "0", "--weight_decay": "-1",
        "--warmup_epochs": ("2", "--warmup_epochs 2 is more than --n_epochs 1"), "--momentum": "1.1", "--temperature": "0",
        "--manualSeed": "-1", "--knn_every": "-1", "--save_every": "-1", "--report_to": "paper"},
    "select": SHARED | {"--retrain": ("", "--retrain is repair.py's work"), "--out": ("data", "data is there already"),
                        "--format": "paper", "--save_path": (FILE, f"{FILE}/selection"),
                        "--labels": ("none.csv", "--labels is for repair.py")},
    "repair": SHARED,
    "tables": {
        "paths": ("nowhere", "nowhere does not exist"), "--rows": "colour", "--columns": "colour", "--metric": "loss",
        "--format": "html", "--output": ("data", "data is a folder"), "--plot": ("plot.pdf", "plot.pdf does not end in .png"),
        "--details": SWITCH,
        "--report": ("data", "there is no run in data"), "--rebuild": ("data", "there is no run in data")},
}
BEFORE = {"train": CALLS[0][1], "pretrain": CALLS[2][1], "select": UNDER_REPAIR, "repair": HYBRID, "tables": ""}  # a wrong value


def parser_of(entry: str, monkeypatch) -> Parser:
    """The parser of an entry."""
    made = []
    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(Parser, "parse_args", lambda self, argv: (made.append(self), next(iter(()))))
        ENTRIES[entry].parse_args([])
    return made[0]


def write_images(folder: Path) -> None:
    """Bright and dark images of noise, 12 pixels a side, in the parts of an image folder; one of the field is damaged."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 8), ("test", 8), ("field", 30)):
        for i in range(count):
            file = folder / part / ("dark", "bright")[i % 2] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 156, (12, 12, 3), dtype=np.uint8) + np.uint8(100 * (i % 2))).save(file)
    (folder / "field/damaged.png").write_text("no image")


def answer(questions: str, answers: str, left_out: int = 0) -> None:
    """Write the questions with their answers, but for the last few, to a file elsewhere."""
    rows = read_rows(Path(questions) / "to_label.csv")
    write_rows(Path(answers), rows[0], [row | {"label": "dark" if i < len(rows) - left_out else ""} for i, row in enumerate(rows)])


def call(entry: str, words: list[str]) -> None:
    errors.run(lambda: ENTRIES[entry].main(ENTRIES[entry].parse_args(words)))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The folder that all calls with right values leave."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(sys.modules, "wandb", MagicMock(__spec__=True))
        patch.setattr(torch.nn.Module, "compile", lambda self: None)  # which takes minutes
        patch.setitem(ARCHITECTURES, "resnet18", (ARCHITECTURES["resnet18"][0], (1, 1, 1, 1)))
        write_images(folder / "data/tiny")
        Path(FILE).write_text(NETWORK)
        for entry, words in CALLS:
            torch.manual_seed(0)
            call(entry, words.split())
            if "--out first" in words:
                answer("first", "answered.csv")
                shutil.copy("first/manifest.json", ".")
            assert entry != "select" or Path("second").exists() == ("--labelled" in words)  # --check writes nothing
            if "--labelled" in words and entry == "select":
                answer("second", "some.csv", left_out=1)
    return folder


@pytest.fixture
def here(place, monkeypatch) -> Path:
    monkeypatch.chdir(place)
    return place


def files_in(folder: Path) -> dict[Path, int]:
    """All files with the times of their last change, but for locks, which are empty and stay."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_flag_has_a_right_and_a_wrong_value_and_no_other_has(entry, monkeypatch):
    flags = {action.option_strings[-1] if action.option_strings else action.dest
             for action in parser_of(entry, monkeypatch)._actions if action.dest != "help"}
    given = {word for name, words in CALLS if name == entry for word in words.split() if word.startswith("--")}
    assert set(WRONG[entry]) == flags
    assert (given | REFUSED_AT_ALL.get(entry, set())) == flags - {"paths"}


@pytest.mark.parametrize("entry, flag", [(entry, flag) for entry, rows in WRONG.items() for flag in rows])
def test_a_wrong_value_is_named_in_one_sentence_and_nothing_is_written(here, capsys, monkeypatch, entry, flag):
    monkeypatch.setitem(sys.modules, "wandb", MagicMock(__spec__=True))
    wrong, said = row if isinstance(row := WRONG[entry][flag], tuple) else (row, f"argument {flag}: ")
    before = files_in(here)
    words = [wrong] if flag == "paths" else [flag + wrong] if wrong in ("", SWITCH) else [flag, wrong]
    with pytest.raises(SystemExit) as stop:
        call(entry, BEFORE[entry].split() + words)
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.startswith("error: ") and message.count("\n") == 1 and said in message, message
    assert files_in(here) == before


def test_right_values_of_a_training_are_its_settings(here):
    content = checkpoint.load(here / "models/net_build_1_b.t7")
    assert content["settings"] | {"dataset": "tiny", "model": "net.py:build", "class_weight": 1, "n_epochs": 2, "lr": 0.02,
                                  "batch_size": 8, "seed": 3, "precision": "bfloat16", "img_size": 8} == content["settings"]
    assert (here / "logs/net_build_1_seed3.jsonl").read_text().count("\n") == 2
    assert json.loads((here / "data/tiny/dataset.json").read_text())["skipped"][0][0] == "field/damaged.png"


def test_right_values_of_a_pretraining_are_its_settings(here):
    settings = checkpoint.load(here / "extractor/checkpoint.pth.tar")["settings"]
    assert settings | {"dataset": "tiny", "arch": "resnet18", "small_stem": True, "dim": 4, "mlp_dim": 8, "n_epochs": 1, "n_images": 16,
                       "batch_size": 8, "lr": 0.5, "weight_decay": 0, "warmup_epochs": 0.5, "momentum": 0.9, "temperature": 0.5,
                       "seed": 3, "precision": "bfloat16"} == settings


def test_right_values_of_a_repair_are_its_settings(here):
    with open("out/results.csv", newline="") as file:
        hybrid, otherwise, average, answered, taught = csv.DictReader(file)
    assert [hybrid[name] for name in ("dataset", "model", "model_number", "solution", "p_budget", "seed")] == [
        "tiny", "net.py:build", "1", "hybrid", "20", "3"]
    for row, words in (
            (hybrid, "sel_l_data=1 sel_u_data=1 u_weight=1 disable_dynamic_u_weight=1 cluster=hybrid avg_clustersize=3 min_samples=2 "
                     "cell_size=12 exp=0 auto_tao=1 lam_ul=5 estimated_statistics=1 micro_batch=64 precision=bfloat16 img_size=8 "
                     "retrain_lr=0.02 retrain_epoch=1 retrain_weightdecay=0 fe=model2test feature_layer=5"),
            (otherwise, "cluster=dbscan eps=0.2 tao=0.4 no_replay=1"), (average, "avg_tao=1"),
            (answered, "labels= labelled= allow_missing=1"), (taught, "distill_lr=0.03")):
        missing = [word for word in words.split() if word not in row["settings"]]
        assert not missing, (missing, row["settings"])
    assert (otherwise["n_annotated"], otherwise["n_known"]) == ("6", "0")  # 20 % of 30
    assert int(answered["n_annotated"]) < 6 <= int(answered["n_known"])


def test_right_values_of_a_selection_and_of_tables_make_their_files(here):
    assert {"tasks.json", "folders", "to_label.csv", "manifest.json"} <= {path.name for path in (here / "first").iterdir()}
    made = json.loads((here / "second/manifest.json").read_text())
    assert "labelled" in json.dumps(made)
    assert "net.py:build" in (here / "table.csv").read_text() and (here / "plot.png").is_file()
    assert len(list((here / "out").rglob("report.html"))) == 5


# --- the variables of the scripts: right, wrong, and the flag that they become

FLAG_OF = {
    "DATASET": ("tiny", None, "dataset"), "DATA_ROOT": ("data", None, "data_path"), "FE": ("mocov3", None, "fe"),
    "CLUSTER": ("dbscan", "round", "cluster"), "MODEL": ("resnet18", "VGG", "model2test_arch"), "MODEL_NO": ("1", "3", "model_number"),
    "SOLUTION": ("coreset", "mpc", "solution"), "p_budget": ("3", "some", "p_budget"), "RANDOM_SEED": ("30", "x", "manualSeed"),
    "avg_clustersize": ("5", "0", "avg_clustersize"), "min_samples": ("4", "0", "min_samples"), "eps": ("0.2", "0", "eps"),
    "exp": ("-1", "1", "exp"), "tao": ("0.2", "auto?", "tao"), "lam": ("7", "-1", "lam_ul"), "lr": ("0.02", "0", "retrain_lr"),
    "weight_decay": ("0.001", "-1", "retrain_weightdecay"), "epochs": ("3", "0", "retrain_epoch"), "CELL": ("0", None, None)}
FLAG_OF_TRAINING = {
    "DATASET": ("tiny", None, "dataset"), "DATA_ROOT": ("data", None, "data_root"), "MODEL": ("resnet18", "VGG", "model"),
    "MODEL_NOS": ("1", "3", "class_weight"), "epoch": ("3", "0", "n_epochs"), "RANDOM_SEED": ("30", "x", "manualSeed"),
    "PRETRAIN_FE": ("0", None, None), "FE_FLAGS": ("--dim 8", None, None)}
SCRIPTS = {"train.sh": ("train_classifier.py", FLAG_OF_TRAINING), "repair.sh": ("repair.py", FLAG_OF),
           "baseline.sh": ("repair.py", FLAG_OF)}


def calls_of(folder: Path, script: str, variables: dict[str, str]) -> list[list[str]]:
    """The calls of Python that a script makes, each of which succeeds at once."""
    recorder = folder / "python"
    recorder.write_text('#!/bin/sh\nprintf "%s\\n" "$*" >> "$(dirname "$0")/calls"\n')
    recorder.chmod(0o755)
    subprocess.run(["sh", ROOT / script], env={"PATH": "/usr/bin:/bin", "PYTHON": str(recorder)} | variables, check=True)
    return [shlex.split(line) for line in (folder / "calls").read_text().splitlines()]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_variable_of_a_script_becomes_its_flag(tmp_path, script):
    entry, flags = SCRIPTS[script]
    assert set(re.findall(r"^(\w+)=\$\{", (ROOT / script).read_text(), re.M)) == set(flags)
    name, *words = [words for words in calls_of(tmp_path, script, {name: right for name, (right, *_) in flags.items()})
                    if words[0] == entry][-1]
    args = {"train_classifier.py": train_classifier, "repair.py": repair}[name].parse_args(words)
    told = {flag: str(getattr(args, flag)) for _, _, flag in flags.values() if flag}
    assert told == {flag: right if flag != "lam_ul" else "7.0" for right, _, flag in flags.values() if flag} | (
        {"p_budget": "3.0"} if "p_budget" in told else {})


@pytest.mark.parametrize("script, variable", [(script, name) for script, (_, flags) in SCRIPTS.items()
                                              for name, (_, wrong, _) in flags.items() if wrong])
def test_a_wrong_value_of_a_variable_is_refused(tmp_path, capsys, script, variable):
    entry, flags = SCRIPTS[script]
    _, wrong, flag = flags[variable]
    words = [words for words in calls_of(tmp_path, script, {"DATASET": "digits", variable: wrong}) if words[0] == entry][-1]
    with pytest.raises(SystemExit) as stop:
        {"train_classifier.py": train_classifier, "repair.py": repair}[words[0]].parse_args(words[1:])
    assert stop.value.code == 2 and f"argument --{flag}: " in capsys.readouterr().err


def test_the_feature_extractor_is_trained_with_its_flags(tmp_path):
    (words,) = calls_of(tmp_path, "train.sh", {"PRETRAIN_FE": "1", "FE_FLAGS": "--dim 8 --arch resnet18", "MODEL_NOS": "",
                                               "DATASET": "tiny"})
    args = pretrain_moco.parse_args(words[1:])
    assert words[0] == "pretrain_moco.py" and (args.dataset, args.dim, args.arch, args.manualSeed) == ("tiny", 8, "resnet18", 10)
