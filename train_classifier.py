"""Train the model under repair: Model A, B or C of a dataset, on its biased train set.

    python train_classifier.py --dataset cifar10 --model MobileNet --class_weight 0
    python train_classifier.py --dataset digits --model resnet18 --class_weight 1 --n_epochs 50

The same command goes on where an interrupted one stopped, and gives what it would have given. The best epoch by accuracy
on the biased val set is kept in check_point/<dataset>/ckpt_bias/<model>_<class_weight>_b.t7; a model that comes with the project
stays there until --force replaces it. --save_path gets a JSON line for each epoch, a record of settings, versions and machine as
JSON, and the shares of classes in the biased sets as PNG.
"""
from pathlib import Path

import numpy as np
import torch

from hybridrepair.base import checkpoint, digests, processes, provenance, states
from hybridrepair.base.device import device_of, on_machine
from hybridrepair.base.errors import run
from hybridrepair.base.files import write_json
from hybridrepair.base.locks import locked
from hybridrepair.base.version import code_version
from hybridrepair.images import data
from hybridrepair.images.augment import Normalise
from hybridrepair.images.biased import biased_subset
from hybridrepair.images.randomness import MAX_SEED, SEED
from hybridrepair.report import plots, tracking
from hybridrepair.run.flags import ARCHITECTURES, Parser, add_data, add_machine, add_published, add_tracking, architecture, number
from hybridrepair.run.settings import of_code, resolution, rounding
from hybridrepair.training import classifier
from hybridrepair.training.passes import Labelled
from mymodels import create
from mymodels.sources import file_name


def parse_args(argv: list[str] | None = None):
    parser = Parser(__doc__)
    add_data(parser, "--data_root")
    parser.add_argument("--model", type=architecture, metavar="NAME", default="MobileNet", help=ARCHITECTURES)
    parser.add_of_dataset(parser, "--class_weight", "model_number", "0, 1, 2: train Model A, B or C", type=int, choices=(0, 1, 2))
    parser.add_argument("--save_path", help="folder of the log and the shares of classes (default: save/<dataset>_<model>)")
    parser.add_argument("--checkpoint_path", help="folder of the checkpoint (default: check_point/<dataset>/ckpt_bias)")
    parser.add_argument("--force", action="store_true", help="train again where a finished checkpoint is, and replace it")
    parser.add_argument("--if_missing", action="store_true", help="do nothing where there is a checkpoint, whatever made it, also in "
                        "checkpoint/ of the published code")
    group = parser.add_argument_group("training")
    parser.add_of_dataset(group, "--n_epochs", "n_epochs", "epochs; the learning rate falls at 1/2 and 3/4", type=number(int, 1))
    parser.add_of_dataset(group, "--lr", "lr", "learning rate of the first half", type=number(float, 0, above=True))
    group.add_argument("--batch_size", type=number(int, 2), default=64, help="images per step")
    group.add_argument("--manualSeed", type=number(int, 0, MAX_SEED), default=SEED, help="seed of weights, order and augmentation")
    group.add_argument("--save_every", type=number(float, 0), default=30, help="seconds between writes of the training state")
    add_tracking(group)
    add_published(parser, pretrained=None, shadow=None)
    add_machine(parser)
    return parser.parse_args(argv)


def main(args) -> None:
    which, name = str(args.class_weight), file_name(args.model)
    kept = Path(args.save_path or f"save/{args.dataset}_{name}")
    folder = Path(args.checkpoint_path or f"check_point/{args.dataset}/ckpt_bias")
    path = folder / f"{name}_{which}_b.t7"
    usual = path if args.checkpoint_path else checkpoint.place(args.dataset, "ckpt_bias", path.name)
    if args.if_missing and processes.led(usual.exists):
        return
    tracking.require(args.report_to)
    device = device_of(args.device)
    dataset = data.load(args.dataset, args.data_root, args.img_size, args.skip_bad)
    biased = folder / "biased_dataset" / which
    if not args.checkpoint_path:  # sets of the published code, where there are none of ours
        biased = checkpoint.place(args.dataset, "ckpt_bias", "biased_dataset", which)
    data.require(dataset, "train", "val")
    subset = biased_subset(dataset, args.class_weight, biased.parent)
    settings = {"dataset": args.dataset, "model": args.model, "class_weight": args.class_weight, "n_epochs": args.n_epochs,
                "lr": args.lr, "batch_size": args.batch_size, "seed": args.manualSeed,
                **{part: digests.of(index.tobytes()) for part, index in subset.items()}, **rounding(args), **resolution(dataset),
                **of_code(args.model), **code_version()}
    train, val = (Labelled.of(dataset, dataset.split[part][subset[part]], device) for part in ("train", "val"))
    settings["data"] = classifier.digest_of(train, val, dataset.num_classes, dataset.mean, dataset.std)
    with locked(path, making=str(path)):
        if args.if_missing and processes.led(usual.exists):  # made while this one waited
            return
        if not args.force and processes.led(lambda: checkpoint.shipped(path)):
            print(f"{path} comes with the project: nothing to do; --force trains another in its place")
            return
        if not args.force and checkpoint.made_with(path, settings, unsaid=("data",)):
            print(f"{path} is there already, made with the same settings: nothing to do")
            states.forget(classifier.state_path(path), settings)
            return
        torch.manual_seed(args.manualSeed)
        height, width, channels = dataset.images.shape[1:]
        model = on_machine(create(args.model, dataset.num_classes, channels, (height, width)), args, device)
        print(f"{args.model} {'ABC'[args.class_weight]} on {args.dataset}: {len(train.labels)} train and {len(val.labels)} val images")
        shares = {part: np.bincount(images.labels.cpu(), minlength=dataset.num_classes)
                  for part, images in (("train", train), ("val", val))}
        processes.led(lambda: plots.save(kept / f"{name}_{which}_classes.png", plots.class_shares(dataset.class_names, shares)))
        log = kept / f"{name}_{which}_seed{args.manualSeed}.jsonl"
        tracked = tracking.Tracking(args.report_to, log.with_suffix(""), settings)
        normalise = Normalise(dataset.mean, dataset.std, device)
        write_json(log.with_suffix(".json"), {"args": vars(args), "settings": settings, **provenance.of(device, args)})
        tracked.finish(classifier.train(model, normalise, train, val, args, path, settings, log, tracked.log))


if __name__ == "__main__":
    run(lambda: main(parse_args()))
