"""What is replayed: the train images that the model under repair was trained on."""
from contextlib import suppress
from pathlib import Path

import numpy as np

from hybridrepair.base import checkpoint, digests, formats
from hybridrepair.base.errors import UserError
from hybridrepair.images.biased import biased_subset
from hybridrepair.images.data import Dataset
from hybridrepair.run.settings import save_path_of
from mymodels.sources import is_foreign

BIASED = "biased_dataset"  # folder of the indices of what each model was trained and validated on


def replayed(args, dataset: Dataset, model: Path) -> np.ndarray:
    """Indices int64 into the train part of what the model in the file `model` was trained on; none where nothing is to be replayed.

    Where nothing tells, all of it for a network of others; for one of ours it is drawn as train.sh would, among the results, and a
    line says so, and whether the checkpoint names the same: beside the model, where further ones may stand, it would be taken for
    theirs.
    """
    if args.no_replay:
        return np.empty(0, np.int64)
    folder = folder_of(args, model)
    if folder is None and is_foreign(args.model2test_arch):
        return np.arange(len(dataset.split["train"]))
    folder, number = folder or save_path_of(args) / BIASED, args.model_number
    known = (folder / str(number) / "train.npy").is_file()
    train = biased_subset(dataset, number, folder, ["train"])["train"]
    if not known:
        tell_drawn(train, folder / str(number), model)
    return train


def folder_of(args, model: Path) -> Path | None:
    """The folder of the biased sets: beside the model under repair, or else where train.sh puts them; None where neither has them."""
    number = str(args.model_number)
    for folder in (model.parent / BIASED, checkpoint.place(args.dataset, "ckpt_bias", BIASED, number).parent):
        if (folder / number / "train.npy").is_file():
            return folder
    return None


def tell_drawn(train: np.ndarray, folder: Path, model: Path) -> None:
    """A line on the train set of a model of ours that was drawn into `folder`, since nothing stands beside the model."""
    missing = model.parent / BIASED / folder.name / "train.npy"
    line = f"there is no {missing} to tell what the model was trained on: drawn as for a model of train.sh, into {folder}"
    made = None
    with suppress(UserError):  # which is told where its weights are needed
        made = formats.read(model).others.get("settings")
    if isinstance(made, dict) and "train" in made:
        line += f"; the checkpoint names {'the same' if made['train'] == digests.of(train) else 'another'} set"
    print(line, flush=True)
