"""The installed package: it is imported and called from another folder, by the same mains as the scripts."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import write_small
from hybridrepair.command import ENTRIES
from hybridrepair.report.tracking import TRACKERS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory, python) -> Path:
    """A folder with what `pip install .` puts into site-packages and bin."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    for pattern in ("*.py", "*.toml", "README.md", "requirements*.txt", "mymodels/*.py", "hybridrepair/**/*.py",
                    "hybridrepair/**/*.html", "extras/*.txt"):
        for file in ROOT.glob(pattern):
            (source / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, source / file.relative_to(ROOT))
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
                    "--disable-pip-version-check", "--target", folder / "site", source], check=True)
    shutil.rmtree(source)
    (folder / "python").symlink_to(python)
    return folder / "site"


def call(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """What the command says in another folder."""
    return subprocess.run([installed.parent / "python", installed / "bin/hybridrepair", *words], cwd=folder, capture_output=True,
                          text=True, env=os.environ | {"PYTHONPATH": str(installed)})


def test_the_package_is_imported_from_another_folder(installed, tmp_path):
    done = subprocess.run([sys.executable, "-c", "import hybridrepair.run.repair as module; print(module.__file__)"], cwd=tmp_path,
                          capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(installed)})
    assert done.returncode == 0 and done.stdout.startswith(str(installed)), done.stderr
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"bin", "hybridrepair", "mymodels"}


def test_an_extra_brings_the_package_of_each_tracker(installed):
    (about,) = installed.glob("hybridrepair-*.dist-info/METADATA")
    for name in TRACKERS:
        assert re.search(f"^Requires-Dist: {name}>=.*extra == .{name}.$", about.read_text(), re.MULTILINE)


def test_the_command_trains_selects_repairs_and_makes_tables(installed, tmp_path):
    write_small(tmp_path / "dataset", pool=100)
    flags = ["--dataset", "small", "--fe", "model2test", "--p_budget", "5", "--retrain_epoch", "1", "--device", "cpu"]
    for words, said in ([["train", "--dataset", "small", "--n_epochs", "1", "--device", "cpu"], "val acc best/last"],
                        [["select", *flags], "images to annotate"], [["repair", *flags], "T2 Acc before/after repair"],
                        [["tables"], "| hybrid |"]):
        done = call(installed, tmp_path, *words)
        assert done.returncode == 0 and said in done.stdout and done.stderr == "", done.stderr  # nor a warning
    assert len(list((tmp_path / "save").rglob("report.html"))) == 1  # its template is part of the package


@pytest.mark.parametrize("word", ENTRIES)
def test_help_names_the_command(installed, tmp_path, word):
    assert call(installed, tmp_path, word, "--help").stdout.startswith(f"usage: hybridrepair {word} ")


@pytest.mark.parametrize("words", [[], ["paint"], ["--version"]])
def test_an_unknown_word_is_answered_with_those_to_choose_from(installed, tmp_path, words):
    done = call(installed, tmp_path, *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and all(word in done.stderr for word in ENTRIES)


def test_a_mistake_ends_in_one_sentence_and_status_2(installed, tmp_path):
    done = call(installed, tmp_path, "repair", "--dataset", "smal")
    assert done.returncode == 2 and done.stderr.startswith("error: dataset smal is unknown")


def test_importing_a_module_parses_no_arguments_and_writes_nothing(tmp_path, python):
    modules = [file.relative_to(ROOT).with_suffix("") for pattern in ("*.py", "hybridrepair/**/*.py", "mymodels/*.py")
               for file in sorted(ROOT.glob(pattern)) if file.name != "__init__.py"]
    names = [".".join(module.parts) for module in modules]
    done = subprocess.run([python, "-c", f"import importlib\nfor name in {names}: importlib.import_module(name)", "--nonsense"],
                          cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and not list(tmp_path.iterdir())
