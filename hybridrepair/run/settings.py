"""Settings: what the flags of a repair mean for its result, and so what tells two runs apart."""
from pathlib import Path

from hybridrepair.annotation import answers, manifest
from hybridrepair.base import digests
from hybridrepair.base.builders import code_of, is_builder
from hybridrepair.base.version import code_version
from hybridrepair.images.arrays import SIZE
from hybridrepair.images.data import Dataset
from hybridrepair.selection.extractor import MODEL, Extractor
from hybridrepair.selection.solutions import SOLUTIONS
from hybridrepair.training import distillation
from hybridrepair.training.passes import BATCH, STEP, micro_batch_of
from hybridrepair.training.statistics import STATISTICS_BATCH
from mymodels.sources import file_name

# flags that change what a clustering gives
CLUSTERING_FLAGS = {"hybrid": ["min_samples", "avg_clustersize"], "kmeans": ["avg_clustersize"], "hdbscan": ["min_samples"],
                    "dbscan": ["min_samples", "eps"]}


def save_path_of(args) -> Path:
    """The folder of results."""
    return Path(args.save_path or f"save/{args.dataset}_{file_name(args.model2test_arch)}")


def uses_embedding(args) -> bool:
    """Whether the solution selects by the features that --fe names, or has a teacher that reads them."""
    solution = SOLUTIONS[args.solution]
    return solution.embeds and (args.sel_l_data or not solution.by_region or solution.taught)


def semi_supervised(args) -> bool:
    """Whether the solution trains on unlabelled images."""
    solution = SOLUTIONS[args.solution]
    return args.sel_u_data if solution.by_region else solution.unlabelled != "none"


def annotates(args) -> bool:
    """Whether the solution has images annotated."""
    return args.sel_l_data or not SOLUTIONS[args.solution].by_region


def rounding(args) -> dict[str, str]:
    """The precision, where it is not float32: a setting of whatever is trained or measured."""
    return {} if args.precision == "float32" else {"precision": args.precision}


def resolution(dataset: Dataset) -> dict[str, int]:
    """The side in pixels that a folder's images were resized to, where it is not the usual one: a setting of whatever looks at them."""
    side = dataset.images.shape[1]
    return {"img_size": side} if dataset.files and side != SIZE else {}


def of_code(name: str) -> dict[str, str]:
    """The digest of the code that builds the model called `name`, where the user's does. UserError if it is missing."""
    return {"builder": digests.of(code_of(name))} if is_builder(name) else {}


def of_parts(args, dataset: Dataset, largest: int) -> dict[str, int]:
    """The images per pass, where a training whose largest batch has `largest` images is cut by it, which batch norm can tell."""
    micro_batch = micro_batch_of(args.micro_batch, *dataset.images.shape[1:3])
    if args.estimated_statistics:
        largest = max(largest, STATISTICS_BATCH)
    return {"micro_batch": micro_batch} if micro_batch < largest else {}


def tau_rule(args) -> str:
    """The flag that says what tau is: the average wins over the automatic one, as published, and both over a number."""
    return "avg_tao" if args.avg_tao else "auto_tao" if args.auto_tao else "tao"


def settings_of(args, dataset: Dataset, extractor: Extractor | None, data: str, weights: str) -> dict:
    """All settings that make the result of this solution, but the names of data and model, solution, budget and seed.

    `extractor` gives the features that clusters are made in, None for the model; `data` and `weights` are the digests of all
    images, labels and parts, and of the model under repair.
    """
    taught = semi_supervised(args) and SOLUTIONS[args.solution].taught
    names = ["retrain_lr", "retrain_weightdecay", "retrain_epoch"]
    names += [name for name in ("estimated_statistics", "no_replay") if getattr(args, name)]
    if SOLUTIONS[args.solution].by_region:
        names += ["sel_l_data", "sel_u_data"]
        if args.sel_l_data:
            names += ["cluster", *CLUSTERING_FLAGS[args.cluster]]
            if args.cell_size and args.cluster != "dbscan":  # which is not cut by cells
                names += ["cell_size"]
        if taught:
            names += ["distill_lr"]
        elif args.sel_u_data:
            names += ["exp", "u_weight", "disable_dynamic_u_weight"]
            if args.exp == 0:
                names += [tau_rule(args)]
    if semi_supervised(args) and not taught:
        names += ["lam_ul"]
    settings = {name: getattr(args, name) for name in names}
    if "cell_size" in names and "min_samples" in names:
        settings["noise"] = "cells"  # what earlier versions, which looked at all pairs for it, do not say
    if uses_embedding(args):
        settings["fe"] = extractor.name if extractor else MODEL
    if args.labels:
        settings["labels"] = of_answers(args.labels, args.manifest)
    if args.labelled:  # of the files, not of the images that they name: those may be removed from the pool between two rounds
        settings["labelled"] = digests.of("".join(sorted(of_answers(path, None) for path in args.labelled)).encode())
    if args.allow_missing:
        settings["allow_missing"] = True
    if args.feature_layer:
        settings["feature_layer"] = args.feature_layer
    largest = distillation.LARGEST if taught else STEP if semi_supervised(args) else BATCH
    return settings | code_version() | rounding(args) | of_code(args.model2test_arch) | of_parts(args, dataset, largest) | {
        "data": data, "weights": weights}


def of_answers(path: str, named: str | None) -> str:
    """What tells answers, with the manifest of their questions, from others; the manifest may be `named`."""
    digest, asked = answers.digest_of(Path(path)), manifest.path_of(Path(path), named)
    return digests.of(digest.encode(), asked.read_bytes()) if asked else digest


def selection_settings(args, settings: dict) -> dict[str, str]:
    """Those of all settings that make the choice of images, as texts."""
    names = ["cluster", *dict.fromkeys(flag for flags in CLUSTERING_FLAGS.values() for flag in flags), "cell_size", "noise",
             "fe", "feature_layer", "builder", "img_size", "labelled", "code"]
    made = {"solution": args.solution, "p_budget": f"{args.p_budget:g}", "seed": str(args.manualSeed)}
    return made | {name: str(settings[name]) for name in names if name in settings}
