"""Command lines: a parser that reports a mistake in one sentence, and the flags that several entries share."""
import argparse
import math
import sys
from typing import NoReturn

import torch

from hybridrepair.base.device import PRECISIONS
from hybridrepair.base.errors import UserError
from hybridrepair.images.arrays import MAX_SIZE, MIN_SIZE, SIZE
from hybridrepair.images.randomness import MAX_SEED, SEED
from hybridrepair.images.registry import DATASETS, Defaults, defaults_of
from hybridrepair.report.tracking import TRACKERS
from hybridrepair.selection.clustering import CLUSTERINGS
from hybridrepair.selection.extractor import MOCO, MODEL, TIMM
from hybridrepair.selection.solutions import PUBLISHED_NAMES, SOLUTIONS
from hybridrepair.training.distillation import PEAK
from mymodels import MODELS, check
from mymodels.sources import FORMS


class Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the line breaks of the description, and adds defaults to the help texts that do not say them."""

    def _get_help_string(self, action):
        said = action.default in (None, []) or "(default: " in (action.help or "")
        return action.help if said else super()._get_help_string(action)


def call_of(name: str) -> str:
    """How a user calls an entry: a script by Python, a command of the installed package by its name."""
    return f"python {name}" if name.endswith(".py") else name


class Parser(argparse.ArgumentParser):
    """argparse with the commands of a module docstring as its description, and mistakes in one sentence, exit status 2."""

    def __init__(self, doc: str):
        super().__init__(description=doc, formatter_class=Formatter, allow_abbrev=False)
        self.of_dataset: dict[str, str] = {}

    def add_of_dataset(self, group, flag: str, field: str, help: str, **more) -> None:
        """A flag whose default is that of the dataset: a field of registry.Defaults."""
        usual = getattr(Defaults(), field)
        others = [f", {name}: {value}" for name in DATASETS if (value := getattr(defaults_of(name), field)) != usual]
        action = group.add_argument(flag, default=argparse.SUPPRESS, help=f"{help} (default: {usual}{''.join(others)})", **more)
        self.of_dataset[action.dest] = field

    def parse_args(self, args=None, namespace=None):
        parsed = super().parse_args(args, namespace)
        for name, field in self.of_dataset.items():
            if name not in parsed:
                setattr(parsed, name, getattr(defaults_of(parsed.dataset), field))
        return parsed

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {call_of(self.prog)} --help\n")


def number(kind: type, least: float, most: float = math.inf, above: bool = False):
    """An argparse type: a finite number of `kind` from `least` (or above it) to `most`."""
    def parse(text: str):
        value = kind(text)
        if not ((value > least if above else value >= least) and value <= min(most, sys.float_info.max)):
            limit = f"above {least}" if above else f"{least} or more"
            raise argparse.ArgumentTypeError(f"{text} is out of range: give a number {limit}"
                                             + (f" and at most {most}" if most < math.inf else ""))
        return value
    parse.__name__ = {int: "whole number", float: "number"}[kind]  # argparse puts it into "invalid ... value"
    return parse


def path(text: str) -> str:
    """An argparse type: the path of a file or a folder."""
    if not text:  # as of a variable of the shell that is not set
        raise argparse.ArgumentTypeError("it is empty; give a file or a folder")
    return text


def add_data(group, root: str) -> None:
    """Flags that say which images to use; `root` is the flag that names the folder of all datasets."""
    group.add_argument("--dataset", default="cifar10", help=f"{', '.join(DATASETS)}, or a folder's name in {root}")
    group.add_argument(root, default="dataset", help="folder of all datasets")
    group.add_argument("--img_size", type=number(int, MIN_SIZE, MAX_SIZE), metavar="N", help="side in pixels that the images of a "
                       f"folder are resized to (default: size in its dataset.json, or {SIZE})")
    group.add_argument("--skip_bad", action="store_true", help="leave out images that cannot be read, instead of stopping; "
                       "dataset.json names them")


ARCHITECTURES = (f"architecture: {', '.join(MODELS)}, {FORMS}, which runs the code in that file and calls the function with the "
                 "number of classes if it takes an argument; by their names, googlenet and inception_v3 have transform_input=False")


def architecture(text: str) -> str:
    """An argparse type: the name of a model."""
    try:
        check(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def add_machine(parser: Parser) -> None:
    """Flags about the machine: none of them changes what is computed, but --precision its rounding."""
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", metavar="NAME",
                       help="torch device that holds the images and computes")
    group.add_argument("--precision", choices=list(PRECISIONS), default="float32", help="of the networks' layers: bfloat16 is "
                       "mixed precision, for processors that have it; weights and losses stay float32")
    group.add_argument("--compile", action="store_true", help="compile the networks, which pays in long runs on a GPU: it takes "
                       "minutes at first, and on a CPU needs a C++ compiler; several processes do without")
    group.add_argument("--num_workers", type=number(int, 0), default=0,
                       help="accepted for published calls; images are augmented in batches on the device, without workers")


def add_published(parser: Parser, **flags: type | None) -> None:
    """Flags of the published command line that have no meaning here; None is a switch, else the type of its value."""
    group = parser.add_argument_group("accepted for published calls; they change nothing")
    for name, kind in flags.items():
        if kind:
            group.add_argument(f"--{name}", type=kind, metavar="N", help="changes nothing")
        else:
            group.add_argument(f"--{name}", action="store_true", help="changes nothing")


def add_tracking(group) -> None:
    """The flag that names what follows a run beside its own files."""
    group.add_argument("--report_to", nargs="+", action="extend", choices=list(TRACKERS), default=[], help="also tell the numbers of "
                       "each epoch to these trackers of experiments, each of which needs the package of its name")


def repair_parser(doc: str) -> Parser:
    """The flags that selection.py and repair.py share: the published command line, and a few of ours."""
    parser = Parser(doc)
    group = parser.add_argument_group("data and model under repair")
    add_data(group, "--data_path")
    group.add_argument("--model2test_arch", type=architecture, metavar="NAME", default="MobileNet", help=ARCHITECTURES)
    group.add_argument("--feature_layer", metavar="LAYER", help="layer of a network of others whose input are its features "
                       "(default: its last layer that gives the classes)")
    group.add_argument("--model2test_path", metavar="PATH", help="its checkpoint (.t7 .pt .pth .ckpt .safetensors ...), or the folder "
                       "of <arch>_<number>_b.t7 (default: check_point/<dataset>/ckpt_bias)")
    parser.add_of_dataset(group, "--model_number", "model_number", "0, 1, 2: Model A, B, C", type=int, choices=(0, 1, 2))
    group.add_argument("--batch_size", type=number(int, 1), default=512,
                       help="images of up to 32x32 pixels per forward pass of evaluation, fewer of larger ones; changes memory and "
                       "speed, not the result")

    group = parser.add_argument_group("annotation")
    group.add_argument("--solution", choices=[*SOLUTIONS, *PUBLISHED_NAMES], default="hybrid", help="method of "
                       "repair: hybrid (also TTA) is HybridRepair as published; hybrid+ chooses as it does, and learns from a teacher")
    parser.add_of_dataset(group, "--p_budget", "p_budget", "percent of the pool that may be annotated in one round", type=float)
    group.add_argument("--labels", type=path, metavar="PATH", help="your annotators' answers, asked instead of the dataset's labels: "
                       "a CSV file, an export of Label Studio, or a folder of sorted images")
    group.add_argument("--manifest", type=path, metavar="FILE", help="the manifest.json of the images that --labels answers, where it "
                       "does not lie beside them")
    group.add_argument("--labelled", type=path, metavar="PATH", action="append", default=[], help="answers of an earlier round, of "
                       "the same kinds; repeat it for several rounds: these images, and (but for hybrid+) all in their regions, "
                       "are not chosen again, and are trained on")
    group.add_argument("--allow_missing", action="store_true", help="leave images without an answer out, and their regions")
    parser.add_of_dataset(group, "--fe", "fe", f"features that hybrid, hybrid+, typiclust and coreset read: {MOCO}, {MODEL} (of the "
                          f"model under repair), the path of a MoCo v3 checkpoint, or a pretrained network as it is: {TIMM}NAME, or "
                          "FILE.py:FUNCTION, whose code is run and returns it (hybridrepair/selection/extractor.py)", metavar="NAME")

    group = parser.add_argument_group("HybridRepair: what is labelled (--sel_l_data) and used unlabelled (--sel_u_data)")
    group.add_argument("--sel_l_data", action="store_true", help="annotate representatives of regions and (hybrid) propagate "
                       "their labels; neither this nor --sel_u_data means both")
    group.add_argument("--sel_u_data", action="store_true", help="semi-supervised training on the trusted part of the pool "
                       "(hybrid), or on a teacher's soft labels of all of it (hybrid+)")
    group.add_argument("--u_weight", action="store_true", help="draw trusted images in proportion to 1 - unsmoothness")
    group.add_argument("--disable_dynamic_u_weight", action="store_true", help="keep those weights for all epochs")
    group.add_argument("--cluster", choices=list(CLUSTERINGS), default="hybrid", help="clustering that makes regions")
    group.add_argument("--avg_clustersize", type=number(int, 1), default=10, help="images in an average region")
    group.add_argument("--cell_size", type=number(int, 0), default=0, metavar="N", help="cut the pool into cells of about N "
                       "images first: an image looks for its neighbours in its own cell and the nearest three, which tells noise, and "
                       "k-means makes regions in each; an approximation for large pools and features of some 64 dimensions, "
                       "whose time grows with the pool x N: give 5000; 0: exact")
    group.add_argument("--eps", type=number(float, 0, 2, above=True), default=0.3, help="cosine distance of --cluster dbscan")
    group.add_argument("--min_samples", type=number(int, 1), default=3, help="points, itself counted, that make a point dense")
    group.add_argument("--exp", type=int, choices=(0, -1), default=0, help="trust unsmoothness up to tau (0), or all (-1)")
    group.add_argument("--tao", type=number(float, 0, 1), default=0.1, help="tau, the smoothness threshold in [0, 1]")
    group.add_argument("--auto_tao", action="store_true", help="tau from T2 images at a typical distance to the train set")
    group.add_argument("--avg_tao", action="store_true", help="tau = mean unsmoothness of T2, also where --auto_tao stands beside it")

    group = parser.add_argument_group("fine-tuning")
    parser.add_of_dataset(group, "--retrain_lr", "retrain_lr", "learning rate", type=number(float, 0, above=True))
    group.add_argument("--distill_lr", type=number(float, 0, above=True), default=PEAK, help="highest learning rate of hybrid+ with "
                       "--sel_u_data, which falls to 0 over its epochs; --retrain_lr is then that of the fine-tuning before repair")
    group.add_argument("--retrain_weightdecay", type=number(float, 0), default=5e-4, help="weight decay")
    parser.add_of_dataset(group, "--retrain_epoch", "retrain_epoch", "epochs", type=number(int, 1))
    group.add_argument("--lam_ul", type=number(float, 0), default=100.0, help="weight of the unlabelled loss")
    group.add_argument("--estimated_statistics", action="store_true", help="batch norm takes its statistics from replayed train images "
                       "after each epoch, instead of keeping those of training batches, mixed views included, as published")
    group.add_argument("--no_replay", action="store_true", help="do without the images that the model was trained on: it is not "
                       "fine-tuned on them first, and repair sees annotated and trusted images alone")
    group.add_argument("--micro_batch", type=number(int, 2), metavar="N", help="images per forward and backward pass: larger batches "
                       "go through in parts, whose gradients add up, while batch norm sees each by itself (default: what takes the "
                       "memory of a whole step at 32x32 pixels, that is 640, and 13 at 224x224)")
    group.add_argument("--manualSeed", type=number(int, 0, MAX_SEED), default=SEED, help="seed of what is drawn in selection and "
                       "repair; the model that a repair starts from and the regions are the same for all")

    group = parser.add_argument_group("results")
    group.add_argument("--save_path", help="folder of results.csv and of a folder for each run (default: "
                       "save/<dataset>_<model>)")
    group.add_argument("--force", action="store_true", help="do again what is done already, and replace its results")
    group.add_argument("--save_every", type=number(float, 0), default=120, help="seconds between writes of the state within an epoch, "
                       "from which the same command goes on if it is interrupted; it is written after each epoch too")
    group.add_argument("--check", action="store_true", help="check dataset, budget, labels, features and model, whose weights need not "
                       "be there yet, and stop")
    add_tracking(group)
    add_published(parser, step=int, latent_space_plot=None, tcp=int)
    add_machine(parser)
    return parser
