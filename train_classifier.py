"""Train the model under repair: Model A, B or C of a dataset, on its biased train set.

    python train_classifier.py --dataset cifar10 --model MobileNet --class_weight 0
    python train_classifier.py --dataset digits --model resnet18 --class_weight 1 --n_epochs 50

The same command goes on where an interrupted one stopped, and gives what it would have given. The best epoch by accuracy
on the biased val set is kept in check_point/<dataset>/ckpt_bias/<model>_<class_weight>_b.t7.
"""
import math
import time
from pathlib import Path

import torch

import checkpoint
import data
from arguments import MAX_SEED, SEED, Parser, add_machine, device_of, number, on_machine
from augment import Normalise
from errors import UserError, run
from finetune import MOMENTUM, Labelled, accuracy, supervised_pass
from mymodels import MODELS, create
from uncertainty import predict

LR = 0.1
STEPS = (1 / 2, 3 / 4)  # of all epochs, after which the learning rate falls tenfold (100 and 150 of 200)
WEIGHT_DECAY = 5e-4


def parse_args(argv: list[str] | None = None):
    parser = Parser(__doc__)
    parser.add_argument("--dataset", default="cifar10", help=f"{', '.join(data.DATASETS)}, or a folder's name in --data_root")
    parser.add_argument("--model", choices=list(MODELS), default="MobileNet", help="architecture")
    parser.add_argument("--class_weight", type=int, choices=(0, 1, 2), default=0, help="0, 1, 2: train Model A, B or C")
    parser.add_argument("--data_root", default="dataset", help="folder of all datasets")
    parser.add_argument("--save_path", help="folder of the checkpoint (default: check_point/<dataset>/ckpt_bias)")
    parser.add_argument("--force", action="store_true", help="train again where a finished checkpoint is, and replace it")
    group = parser.add_argument_group("training")
    group.add_argument("--n_epochs", type=number(int, 1), default=200, help="epochs; the learning rate falls at 1/2 and 3/4")
    group.add_argument("--batch_size", type=number(int, 2), default=64, help="images per step")
    group.add_argument("--manualSeed", type=number(int, 0, MAX_SEED), default=SEED, help="seed of weights, order and augmentation")
    group.add_argument("--save_every", type=number(float, 0), default=30, help="seconds between writes of the training state")
    add_machine(parser)
    return parser.parse_args(argv)


def learning_rate(epoch: int, epochs: int) -> float:
    """The learning rate of an epoch, counted from 1."""
    return LR * 0.1 ** sum(epoch - 1 >= step * epochs for step in STEPS)


def main(args) -> None:
    device = device_of(args.device)
    dataset = data.load(args.dataset, args.data_root)
    folder = Path(args.save_path or f"check_point/{args.dataset}/ckpt_bias")
    path = folder / f"{args.model}_{args.class_weight}_b.t7"
    partial = path.with_suffix(".partial.t7")
    subset = data.biased_subset(dataset, args.class_weight, folder / "biased_dataset")
    settings = {"dataset": args.dataset, "model": args.model, "class_weight": args.class_weight, "n_epochs": args.n_epochs,
                "batch_size": args.batch_size, "seed": args.manualSeed, "train": checkpoint.digest(subset["train"].tobytes()),
                "val": checkpoint.digest(subset["val"].tobytes())}
    if not args.force and checkpoint.made_with(path, settings):
        print(f"{path} is there already, made with the same settings: nothing to do")
        return

    normalise = Normalise(dataset.mean, dataset.std, device)
    train, val = (Labelled.of(dataset, dataset.split[part][subset[part]], device) for part in ("train", "val"))
    none = Labelled(train.images[:0], train.labels[:0])
    everything = torch.arange(len(train.labels), device=device)
    torch.manual_seed(args.manualSeed)
    model = on_machine(create(args.model, dataset.num_classes, dataset.images.shape[3]), args, device)
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    state = checkpoint.made_with(partial, settings, args.force)
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        print(f"going on after epoch {state['epoch']}, from {partial}")
    else:
        state = {"epoch": 0, "best": {"acc": -1.0}}
    best, saved = state["best"], time.perf_counter()

    print(f"{args.model} {'ABC'[args.class_weight]} on {args.dataset}: {len(train.labels)} train and {len(val.labels)} val images")
    for epoch in range(state["epoch"] + 1, args.n_epochs + 1):
        start = time.perf_counter()
        optimizer.param_groups[0]["lr"] = learning_rate(epoch, args.n_epochs)
        loss, n = supervised_pass(model, optimizer, normalise, train, everything, none, smoothing=0, seed=args.manualSeed,
                                  epoch=epoch, size=args.batch_size)
        loss = loss.item()
        if not math.isfinite(loss):
            raise UserError(f"the loss is not finite in epoch {epoch}; train with another --manualSeed or --batch_size")
        seconds = time.perf_counter() - start
        acc = accuracy(predict(model, normalise, val.images, 256)[0], val.labels)
        if acc > best["acc"]:
            best = {"net": checkpoint.weights_of(model), "acc": acc, "epoch": epoch}
        print(f"epoch {epoch:3d}/{args.n_epochs}  loss {loss:.4f}  val acc {acc:5.2f}  best {best['acc']:5.2f}  "
              f"{n / seconds:.0f} images/s", flush=True)
        if time.perf_counter() - saved >= args.save_every and epoch < args.n_epochs:
            checkpoint.save(partial, {"settings": settings, "epoch": epoch, "best": best, "model": model.state_dict(),
                                      "optimizer": optimizer.state_dict()})
            saved = time.perf_counter()
    checkpoint.save(path, {**best, "settings": settings})
    partial.unlink(missing_ok=True)
    last = accuracy(predict(model, normalise, val.images, 256)[0], val.labels)
    print(f"val acc best/last: {best['acc']:.2f} (epoch {best['epoch']})/{last:.2f}; saved {path}")


if __name__ == "__main__":
    run(main, parse_args())
