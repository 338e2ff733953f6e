"""Repairs of the dataset `small`, as their users call them, in the folder of the fixture `field`."""
import csv
from pathlib import Path

import pytest

import repair
from hybridrepair.base import errors

FLAGS = ["--dataset", "small", "--data_path", "data", "--fe", "model2test", "--u_weight", "--p_budget", "5",
         "--retrain_epoch", "2", "--retrain_lr", "0.01", "--device", "cpu"]
MODEL_FILE = "check_point/small/ckpt_bias/MobileNet_0_b.t7"
SHALLOW = ((64, 2), (128, 2), (1024, 2))  # channels and stride of blocks


def run(*flags: str, entry=repair) -> None:
    entry.main(entry.parse_args([*FLAGS, *flags]))


def rows(folder: str = "save/small_MobileNet") -> list[dict[str, str]]:
    with open(Path(folder) / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def folder_of(row: dict[str, str], folder: str = "save/small_MobileNet") -> Path:
    return Path(folder) / row["run"]


def baselines() -> list[Path]:
    return sorted(Path("check_point/small/ckpt_bias").glob("MobileNet_0_b_finetuned*"))


def refused(capsys, *flags: str, entry=repair) -> str:
    """The one sentence that the call ends in, with exit status 2."""
    with pytest.raises(SystemExit) as stop:
        errors.run(lambda: run(*flags, entry=entry))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message
