"""What tests of repairs begin with: a model under repair of few blocks, in a folder of its own."""
import shutil
from pathlib import Path

import pytest

import train_classifier
from conftest import write_small
from hybridrepair.report import page, plots
from mymodels import mobilenet
from small import SHALLOW, run


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """MobileNet of three blocks in place of thirteen, for a tenth of the time."""
    monkeypatch.setattr(mobilenet, "BLOCKS", SHALLOW)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder with the dataset `small`, a model under repair and its fine-tuned form, which all tests start from."""
    folder = tmp_path_factory.mktemp("trained")
    write_small(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenet, "BLOCKS", SHALLOW)
        patch.chdir(folder)
        train_classifier.main(train_classifier.parse_args(
            ["--dataset", "small", "--data_root", "data", "--n_epochs", "20", "--batch_size", "16", "--lr", "0.01",  # of 120 images
             "--device", "cpu"]))
        run("--solution", "random")
        shutil.rmtree("save")
    return folder


@pytest.fixture
def drawn() -> None:
    """For tests that look at plots and reports; without this they are not drawn, which is most of the time of a short run."""


@pytest.fixture
def field(trained, tmp_path, monkeypatch, request) -> Path:
    """A copy of that folder, as the working directory."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(plots, "write", lambda *args: None)
        monkeypatch.setattr(page, "write", lambda *args: None)
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
