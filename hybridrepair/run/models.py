"""The model under repair in its three forms: as its checkpoint has it, fine-tuned on its own train set, and copies to repair."""
import copy
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from hybridrepair.base import checkpoint, formats
from hybridrepair.base.device import compiles, on_machine
from hybridrepair.base.errors import UserError
from hybridrepair.images.augment import Normalise
from hybridrepair.images.data import Dataset
from hybridrepair.images.randomness import SEED, key
from hybridrepair.images.registry import defaults_of
from hybridrepair.run.settings import of_code, of_parts, rounding, save_path_of
from hybridrepair.training import baseline
from hybridrepair.training.finetune import Recipe
from hybridrepair.training.passes import BATCH, Labelled
from mymodels import create
from mymodels.sources import file_name


def place_of(args) -> Path:
    """Where the model under repair is to lie."""
    name = f"{file_name(args.model2test_arch)}_{args.model_number}_b.t7"
    path = Path(args.model2test_path) if args.model2test_path else checkpoint.place(args.dataset, "ckpt_bias", name)
    if path.is_dir() or not (path.suffix or path.is_file()):
        path /= name
    return path


def checkpoint_path(args) -> Path:
    """Where the model under repair lies. UserError if it does not."""
    path = place_of(args)
    if not path.is_file():
        remedy = "correct" if args.model2test_path else "give"
        raise UserError(f"there is no model under repair {path}; {remedy} --model2test_path, or train it with DATASET={args.dataset} "
                        f"MODEL={args.model2test_arch} MODEL_NOS={args.model_number} sh train.sh")
    return path


def recipe_of(args, stage: str, seed: int) -> Recipe:
    """How to fine-tune; the stage belongs to every draw, so that none sees what another with the same seed has seen."""
    return Recipe(args.retrain_epoch, args.retrain_lr, args.retrain_weightdecay, args.lam_ul, key(seed, stage),
                  estimated_statistics=args.estimated_statistics, batch_size=args.batch_size, micro_batch=args.micro_batch,
                  usual_lr=defaults_of(args.dataset).retrain_lr)


def read(path: Path, dataset: Dataset) -> formats.Checkpoint:
    """The checkpoint of a model of that dataset. UserError if it cannot be used."""
    found = formats.read(path)
    formats.check_classes(found, dataset.class_names)
    return found


def network_of(args, dataset: Dataset, found: formats.Checkpoint | None) -> nn.Module:
    """The network under repair with the weights of its checkpoint, or new ones. UserError if there is none, or they do not fit."""
    name, (height, width, channels) = args.model2test_arch, dataset.images.shape[1:]
    keys = found.weights if found else None
    model = create(name, dataset.num_classes, channels, (height, width), args.feature_layer, keys)
    if found:
        formats.fit(model, found, name)
    return model


def check(args, dataset: Dataset) -> bool:
    """Whether the model under repair is there already. UserError where it, or its architecture, cannot be used."""
    path = checkpoint_path(args) if args.model2test_path else place_of(args)
    network_of(args, dataset, read(path, dataset) if path.is_file() else None)
    return path.is_file()


class Models:
    """The model under repair in `path`, whose digest is `weights`, in its forms; each is made when first asked for."""

    def __init__(self, args, path: Path, weights: str, dataset: Dataset, device: torch.device, normalise: Normalise, train: Labelled,
                 accuracy_of: Callable[[nn.Module], float | None]):
        self.args, self.path, self.weights, self.dataset, self.device = args, path, weights, dataset, device
        self.normalise, self.train, self.accuracy_of = normalise, train, accuracy_of

    @cached_property
    def found(self) -> formats.Checkpoint:
        """The checkpoint as it was read."""
        return read(self.path, self.dataset)

    def _loaded(self) -> nn.Module:
        """As the checkpoint has it, where and as the flags have it compute."""
        return on_machine(network_of(self.args, self.dataset, self.found), self.args, self.device)

    @cached_property
    def raw(self) -> nn.Module:
        """As the checkpoint has it: what selects."""
        return self._loaded()

    @cached_property
    def tuned(self) -> nn.Module:
        """After fine-tuning on its own train set, if that is replayed: what every repair starts from."""
        if self.args.no_replay:
            return self.raw
        model, settings = self._loaded(), self.of_baseline
        kept = checkpoint.beside(baseline.path_of(self.path, settings), save_path_of(self.args))
        baseline.tune(model, kept, self.normalise, self.train, self.baseline_recipe, settings, self.accuracy_of,
                      self.args.save_every)
        return model

    @property
    def baseline_recipe(self) -> Recipe:
        return recipe_of(self.args, "baseline", SEED)  # one for all seeds, so that their results compare

    @property
    def of_baseline(self) -> dict:
        """The settings that make the tuned one."""
        settings = baseline.settings_of(self.baseline_recipe, self.train, self.weights)
        settings |= rounding(self.args) | of_code(self.args.model2test_arch) | of_parts(self.args, self.dataset, BATCH)
        return settings | {"mean": list(self.dataset.mean), "std": list(self.dataset.std)}

    def to_repair(self) -> nn.Module:
        """A copy of the tuned one to be trained on, compiled where the flags say so, which a copy is not by itself."""
        model = copy.deepcopy(self.tuned)
        if compiles(self.args):
            model.compile()
        return model
