"""Train the MoCo v3 feature extractor of a dataset, without labels, on its train part and pool.

    python pretrain_moco.py --dataset cifar10
    python pretrain_moco.py --dataset cifar10 --arch resnet18 --mlp_dim 1024 --n_images 10000 --n_epochs 20

The same command goes on where an interrupted one stopped, and gives what it would have given. The result is
check_point/<dataset>/ckpt_pretrained_mocov3/checkpoint.pth.tar, in the published layout, and a record of settings, versions and
machine beside it. The accuracy printed on the way is that of a k-NN classifier among labelled train images, each left out in turn: no
label is trained on.
"""
import math
from pathlib import Path

import numpy as np
import torch

from hybridrepair.base import checkpoint, digests, provenance, states
from hybridrepair.base.device import device_of, on_machine
from hybridrepair.base.errors import UserError, run
from hybridrepair.base.files import write_json
from hybridrepair.base.locks import locked
from hybridrepair.base.version import code_version
from hybridrepair.images import data
from hybridrepair.images.arrays import taken
from hybridrepair.images.augment import Normalise
from hybridrepair.images.randomness import MAX_SEED, SEED, generator, key
from hybridrepair.report import tracking
from hybridrepair.run.flags import Parser, add_data, add_machine, add_tracking, number
from hybridrepair.run.settings import rounding
from hybridrepair.training import contrastive
from mymodels.moco import ARCHITECTURES, MoCo

NAME, RECORD = "checkpoint.pth.tar", "checkpoint.json"
KNN_IMAGES = 5000  # labelled train images, at most, among which neighbours are looked for


def parse_args(argv: list[str] | None = None):
    parser = Parser(__doc__)
    add_data(parser, "--data_root")
    parser.add_argument("--save_path", help="folder of the checkpoint (default: check_point/<dataset>/ckpt_pretrained_mocov3)")
    parser.add_argument("--force", action="store_true", help="replace a finished checkpoint, and what other settings left; "
                        "an interrupted training of these settings goes on")
    group = parser.add_argument_group("network")
    group.add_argument("--arch", choices=list(ARCHITECTURES), default="resnet50", help="architecture of the encoder")
    group.add_argument("--small_stem", action="store_true",
                       help="3x3 stem without max-pool: better features of images of 32 pixels, at some 13 times the work")
    group.add_argument("--dim", type=number(int, 2), default=64, help="features per image")
    group.add_argument("--mlp_dim", type=number(int, 2), default=4096, help="width of the projector and the predictor")
    group = parser.add_argument_group("training")
    group.add_argument("--n_epochs", type=number(int, 1), default=200, help="epochs")
    group.add_argument("--n_images", type=number(int, 2), help="train on this many images, drawn once (default: all)")
    group.add_argument("--batch_size", type=number(int, 2), default=256, help="images per step, of two views each")
    group.add_argument("--lr", type=number(float, 0, above=True), default=0.1, metavar="LR",
                       help="highest learning rate for batches of 256; in proportion for others")
    group.add_argument("--weight_decay", type=number(float, 0), default=1e-4, help="weight decay")
    group.add_argument("--warmup_epochs", type=number(float, 0),
                       help="epochs in which the learning rate rises, before it falls (default: a tenth, at most 10)")
    group.add_argument("--momentum", type=number(float, 0, 1), default=0.99,
                       help="of the momentum encoder at first; it rises to 1 as a cosine")
    group.add_argument("--temperature", type=number(float, 0, above=True), default=1.0, metavar="T",
                       help="temperature of the contrastive loss")
    group.add_argument("--manualSeed", type=number(int, 0, MAX_SEED), default=SEED, help="seed of weights, order and views")
    group = parser.add_argument_group("reports")
    group.add_argument("--knn_every", type=number(int, 0), default=10,
                       help="epochs between k-NN accuracies; 0: before and after training alone")
    group.add_argument("--save_every", type=number(float, 0), default=60, help="seconds between writes of the training state")
    add_tracking(group)
    add_machine(parser)
    args = parser.parse_args(argv)
    if args.warmup_epochs is None:
        args.warmup_epochs = min(10, args.n_epochs / 10)
    if args.warmup_epochs > args.n_epochs:
        parser.error(f"--warmup_epochs {args.warmup_epochs:g} is more than --n_epochs {args.n_epochs}; give fewer")
    return args


def main(args) -> None:
    tracking.require(args.report_to)
    device = device_of(args.device)
    dataset = data.load(args.dataset, args.data_root, args.img_size, args.skip_bad)
    path = Path(args.save_path or f"check_point/{args.dataset}/ckpt_pretrained_mocov3") / NAME
    index = np.concatenate([dataset.split[part] for part in ("train", "pool")])
    if len(index) < 2:
        data.require(dataset, "pool")
        raise UserError(f"dataset {args.dataset} has one image to train on; give more train or pool images")
    if args.n_images and args.n_images < len(index):
        index = np.sort(generator(key(args.manualSeed, "moco images")).choice(index, args.n_images, replace=False))
    names = ("dataset", "arch", "small_stem", "dim", "mlp_dim", "n_epochs", "batch_size", "lr", "weight_decay", "warmup_epochs",
             "momentum", "temperature")
    images = taken(dataset.images, index)
    settings = {**{name: getattr(args, name) for name in names}, "seed": args.manualSeed, "n_images": len(index),
                "images": digests.of(images), "mean": dataset.mean, "std": dataset.std, **rounding(args), **code_version()}
    with locked(path, making=str(path)):  # a folder that cannot be made ends it now, not after the training
        if not args.force and checkpoint.made_with(path, settings):
            print(f"{path} is there already, made with the same settings: nothing to do")
            states.forget(contrastive.state_path(path), settings)
            return
        normalise = Normalise(dataset.mean, dataset.std, device)
        images = torch.from_numpy(images).to(device)
        labelled = dataset.split["train"]
        labelled = labelled[::max(1, math.ceil(len(labelled) / KNN_IMAGES))]  # not the first: a folder is in order of classes
        known = tuple(torch.from_numpy(array[labelled]).to(device) for array in (dataset.images, dataset.labels))
        torch.manual_seed(args.manualSeed)
        model = on_machine(MoCo(args.arch, args.dim, args.mlp_dim, args.temperature, args.small_stem, images.shape[3]), args, device)
        print(f"MoCo v3 with {args.arch} on {args.dataset}: {len(images)} images; k-NN among {len(labelled)} labelled ones")
        write_json(path.with_name(RECORD), {"args": vars(args), "settings": settings, **provenance.of(device, args)})
        tracked = tracking.Tracking(args.report_to, path.parent, settings)
        tracked.finish(contrastive.train(model, normalise, images, known, args, path, settings, tracked.log))


if __name__ == "__main__":
    run(lambda: main(parse_args()))
