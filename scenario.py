"""A scenario: the model under repair, its train set, T2, the pool and its annotator, and all that is computed from them.

Quantities are computed when first asked for, so that a solution costs what it needs and no more.
"""
import time
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Iterator

import numpy as np
import torch
from torch import Tensor, nn

import checkpoint
import data
from arguments import MAX_SEED, SEED, Parser, add_machine, device_of, number, on_machine
from augment import Normalise
from clustering import CLUSTERINGS, Regions, regions
from errors import UserError
from features import MOCO, MODEL, extract, extractor_path
from finetune import Labelled, Recipe, accuracy, finetune
from mymodels import MODELS, create
from oracle import Oracle, read_labels
from randomness import key
from selection import PUBLISHED_NAMES, SOLUTIONS
from uncertainty import Unsmoothness, distance_to, normalised, predict, tau_of, unsmoothness

# flags that change what a clustering gives
CLUSTERING_FLAGS = {"hybrid": ["min_samples", "avg_clustersize"], "kmeans": ["avg_clustersize"], "hdbscan": ["min_samples"],
                    "dbscan": ["min_samples", "eps"]}


def parser(doc: str) -> Parser:
    """The flags that selection.py and repair.py share: the published command line, and a few of ours."""
    parser = Parser(doc)
    group = parser.add_argument_group("data and model under repair")
    group.add_argument("--dataset", default="cifar10", help=f"{', '.join(data.DATASETS)}, or a folder's name in --data_path")
    group.add_argument("--data_path", default="dataset", help="folder of all datasets")
    group.add_argument("--model2test_arch", choices=list(MODELS), default="MobileNet", help="architecture")
    group.add_argument("--model2test_path", metavar="PATH", help="its checkpoint, or the folder of <arch>_<number>_b.t7 "
                       "(default: check_point/<dataset>/ckpt_bias)")
    group.add_argument("--model_number", type=int, choices=(0, 1, 2), default=0, help="0, 1, 2: Model A, B, C")
    group.add_argument("--batch_size", type=number(int, 1), default=512,
                       help="images per forward pass of evaluation; changes memory and speed, not the result")

    group = parser.add_argument_group("annotation")
    group.add_argument("--solution", choices=[*SOLUTIONS, *PUBLISHED_NAMES], default="hybrid", help="method of repair")
    group.add_argument("--p_budget", type=float, default=1.0, help="percent of the pool that may be annotated")
    group.add_argument("--labels", metavar="FILE", help="CSV with the columns index and label: your annotators' answers, "
                       "asked instead of the dataset's labels")
    group.add_argument("--fe", default=MOCO, metavar="NAME", help=f"features that hybrid and typiclust cluster: {MOCO}, {MODEL} "
                       "(the model under repair), or the path of a MoCo v3 checkpoint")

    group = parser.add_argument_group("HybridRepair: what is labelled (--sel_l_data) and used unlabelled (--sel_u_data)")
    group.add_argument("--sel_l_data", action="store_true", help="annotate representatives of regions and propagate their "
                       "labels; neither this nor --sel_u_data means both")
    group.add_argument("--sel_u_data", action="store_true", help="semi-supervised training on the trusted part of the pool")
    group.add_argument("--u_weight", action="store_true", help="draw trusted images in proportion to 1 - unsmoothness")
    group.add_argument("--disable_dynamic_u_weight", action="store_true", help="keep those weights for all epochs")
    group.add_argument("--cluster", choices=list(CLUSTERINGS), default="hybrid", help="clustering that makes regions")
    group.add_argument("--avg_clustersize", type=number(int, 1), default=10, help="images in an average region")
    group.add_argument("--cell_size", type=number(int, 0), default=0, metavar="N", help="let k-means cut the pool into cells of "
                       "about N images first, and each of these into regions: an approximation for large pools; 0: exact")
    group.add_argument("--eps", type=number(float, 0, above=True), default=0.3, help="cosine distance of --cluster dbscan")
    group.add_argument("--min_samples", type=number(int, 1), default=3, help="neighbours that make a point dense")
    group.add_argument("--exp", type=int, choices=(0, -1), default=0, help="trust unsmoothness up to tau (0), or all (-1)")
    group.add_argument("--tao", type=number(float, 0), default=0.1, help="tau, the smoothness threshold in [0, 1]")
    group.add_argument("--auto_tao", action="store_true", help="tau from T2 images at a typical distance to the train set")
    group.add_argument("--avg_tao", action="store_true", help="tau = mean unsmoothness of T2")

    group = parser.add_argument_group("fine-tuning")
    group.add_argument("--retrain_lr", type=number(float, 0, above=True), default=0.001, help="learning rate")
    group.add_argument("--retrain_weightdecay", type=number(float, 0), default=5e-4, help="weight decay")
    group.add_argument("--retrain_epoch", type=number(int, 1), default=10, help="epochs")
    group.add_argument("--lam_ul", type=number(float, 0), default=100.0, help="weight of the unlabelled loss")
    group.add_argument("--running_statistics", action="store_true", help="as published: batch norm keeps the running statistics "
                       "of training batches, mixed views included, instead of those of replayed train images")
    group.add_argument("--manualSeed", type=number(int, 0, MAX_SEED), default=SEED, help="seed of all that is random")

    group = parser.add_argument_group("results")
    group.add_argument("--save_path", help="folder of results.csv and of a folder for each run (default: "
                       "save/<dataset>_<model>)")
    group.add_argument("--force", action="store_true", help="do again what is done already, and replace its results")
    add_machine(parser)
    return parser


class Scenario:
    """What a run knows; see the properties. `seconds` holds the wall-clock seconds of each named stage.

    UserError for every input that cannot be used.
    """

    def __init__(self, args):
        self.args, self.seconds = args, {}
        args.solution = PUBLISHED_NAMES.get(args.solution, args.solution)
        if not (args.sel_l_data or args.sel_u_data):
            args.sel_l_data = args.sel_u_data = True
        with self.stage("load"):
            self.device = device_of(args.device)
            self.seed, self.batch_size = args.manualSeed, args.batch_size
            self.dataset = data.load(args.dataset, args.data_path)
            self.pool_index = self.dataset.split["pool"]  # positions in images.npy
            self.n = len(self.pool_index)
            self.budget = budget_of(args.p_budget, self.n)
            self.oracle = self._oracle()
            # the MoCo v3 checkpoint that clusters need, told before a training of hours where it is missing
            self.extractor = extractor_path(args.fe, args.dataset) if self.uses_embedding and args.fe != MODEL else None
            self.checkpoint_path = self._checkpoint_path()
            self.weights = checkpoint.digest(self._checkpoint_bytes())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to `seconds[name]`."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def _checkpoint_path(self) -> Path:
        path = Path(self.args.model2test_path or f"check_point/{self.args.dataset}/ckpt_bias")
        name = f"{self.args.model2test_arch}_{self.args.model_number}_b.t7"
        return path if path.suffix == ".t7" or path.is_file() else path / name

    def _checkpoint_bytes(self) -> bytes:
        if not self.checkpoint_path.is_file():
            raise UserError(f"there is no model under repair {self.checkpoint_path}; train it with DATASET={self.args.dataset} "
                            f"MODEL={self.args.model2test_arch} MODEL_NOS={self.args.model_number} sh train.sh, or give "
                            "--model2test_path")
        return self.checkpoint_path.read_bytes()

    # --- images

    @cached_property
    def normalise(self) -> Normalise:
        return Normalise(self.dataset.mean, self.dataset.std, self.device)

    @cached_property
    def train(self) -> Labelled:
        """The biased train set of the model under repair."""
        subset = data.biased_subset(self.dataset, self.args.model_number, self.checkpoint_path.parent / "biased_dataset")
        return Labelled.of(self.dataset, self.dataset.split["train"][subset["train"]], self.device)

    @cached_property
    def t2(self) -> Labelled:
        return Labelled.of(self.dataset, self.dataset.split["T2"], self.device)

    @cached_property
    def pool(self) -> Tensor:
        """The unlabelled field images, uint8 [N, H, W, C]."""
        return torch.from_numpy(self.dataset.images[self.pool_index]).to(self.device)

    def _oracle(self) -> Oracle:
        """The annotator of the pool."""
        if self.args.labels is None:
            return Oracle(self.dataset.labels[self.pool_index], self.budget, f"dataset {self.dataset.name}")
        answers = read_labels(self.args.labels, self.pool_index, self.dataset.class_names)
        return Oracle(answers, self.budget, f"labels file {self.args.labels}")

    # --- models

    def _network(self) -> nn.Module:
        """A network of the model under repair's kind, freshly initialised, where and as the flags have it compute."""
        model = create(self.args.model2test_arch, self.dataset.num_classes, self.dataset.images.shape[3])
        return on_machine(model, self.args, self.device)

    @cached_property
    def raw_model(self) -> nn.Module:
        """The model under repair, as its checkpoint has it."""
        model = self._network()
        checkpoint.load_weights(model, self.checkpoint_path)
        return model

    @cached_property
    def model(self) -> nn.Module:
        """The model under repair after fine-tuning on its own train set: what every repair starts from.

        Kept beside the checkpoint with the settings that made it, and made again when they differ.
        """
        path = self.checkpoint_path.with_name(f"{self.checkpoint_path.stem}_finetuned.t7")
        recipe = self.recipe(seed=SEED)  # one baseline for all seeds, so that their results compare
        settings = {"weights": self.weights, "train": checkpoint.digest(self.train.images.cpu().numpy().tobytes()),
                    "epochs": recipe.epochs, "lr": recipe.lr, "weight_decay": recipe.weight_decay,
                    "estimated_statistics": recipe.estimated_statistics, **self._rounding}
        model = self._network()
        if path.exists() and checkpoint.load(path).get("settings") == settings:
            checkpoint.load_weights(model, path)
            return model
        model.load_state_dict(self.raw_model.state_dict())
        nothing = Labelled(self.train.images[:0], self.train.labels[:0])
        print(f"fine-tuning the model under repair on its own train set, {len(self.train.labels)} images", flush=True)
        for record in finetune(model, self.normalise, self.train, recipe, nothing, smoothing=0):
            print(f"epoch {record['epoch']:2d}/{recipe.epochs}  loss {record['loss']:.4f}  "
                  f"{record['images'] / record['seconds']:.0f} images/s", flush=True)
        checkpoint.save(path, {"net": checkpoint.weights_of(model), "acc": self.accuracy_of(model), "epoch": recipe.epochs,
                               "settings": settings})
        return model

    def recipe(self, seed: int) -> Recipe:
        args = self.args
        return Recipe(args.retrain_epoch, args.retrain_lr, args.retrain_weightdecay, args.lam_ul, seed,
                      estimated_statistics=not args.running_statistics, batch_size=self.batch_size)

    def predictions_of(self, model: nn.Module) -> Tensor:
        """Predicted classes of T2, int64 [N]."""
        return predict(model, self.normalise, self.t2.images, self.batch_size)[0].argmax(1)

    def accuracy_of(self, model: nn.Module) -> float:
        """Accuracy on T2 in percent."""
        return accuracy(predict(model, self.normalise, self.t2.images, self.batch_size)[0], self.t2.labels)

    # --- evidence on the pool, from the fine-tuned model

    @cached_property
    def _predictions(self) -> tuple[Tensor, Tensor]:
        return predict(self.model, self.normalise, self.pool, self.batch_size)

    @cached_property
    def probs(self) -> Tensor:
        """Softmax, float64 [N, C]."""
        return self._predictions[0].double().softmax(1)

    @property
    def features(self) -> Tensor:
        """Input of the last linear layer, float32 [N, D]."""
        return self._predictions[1]

    def uncertainty_of(self, model: nn.Module, images: Tensor, part: str) -> Unsmoothness:
        """Not normalised. The views are the same at every call of a run."""
        return unsmoothness(model, self.normalise, images, key(self.seed, f"views of {part}"), self.batch_size,
                            title=f"unsmoothness of {part}")

    @cached_property
    def uncertainty(self) -> Unsmoothness:
        return self.uncertainty_of(self.model, self.pool, "pool")

    @property
    def looked_at_views(self) -> bool:
        """Whether the solution has computed the uncertainty of the pool."""
        return "uncertainty" in self.__dict__

    @cached_property
    def variance(self) -> Tensor:
        """Variance of the prediction over views, normalised, float64 [N]."""
        return normalised(self.uncertainty.variance)

    @cached_property
    def unsmoothness(self) -> Tensor:
        """Mean entropy over views, normalised, float64 [N]."""
        return normalised(self.uncertainty.mean_entropy)

    @cached_property
    def tau(self) -> float:
        """The smoothness threshold, by the rule that the flags choose."""
        if not (self.args.auto_tao or self.args.avg_tao):
            return self.args.tao
        t2 = normalised(self.uncertainty_of(self.model, self.t2.images, "T2").mean_entropy)
        if self.args.avg_tao and not self.args.auto_tao:
            return t2.mean().item()
        train, field = (predict(self.model, self.normalise, images, self.batch_size)[0]
                        for images in (self.train.images, self.t2.images))
        return tau_of(distance_to(train, field), t2)

    @cached_property
    def embedding(self) -> Tensor:
        """Features that clusters are made in, L2-normalised, float32 [N, D]."""
        if self.extractor is None:
            return torch.nn.functional.normalize(self.features, dim=1)
        return extract(self.extractor, self.normalise, self.pool, self.batch_size)

    @cached_property
    def regions(self) -> Regions:
        args = self.args
        return regions(self.embedding, self.budget, args.cluster, args.avg_clustersize, args.eps, args.min_samples,
                       key(self.seed, "regions"), args.cell_size)

    # --- what makes a result

    @property
    def uses_embedding(self) -> bool:
        """Whether the solution selects by clusters of features."""
        solution = SOLUTIONS[self.args.solution]
        return solution.clusters and (self.args.sel_l_data or not solution.by_region)

    @property
    def semi_supervised(self) -> bool:
        """Whether the solution trains on unlabelled images."""
        solution = SOLUTIONS[self.args.solution]
        return self.args.sel_u_data if solution.by_region else solution.unlabelled != "none"

    @property
    def _rounding(self) -> dict:
        """The precision, where it is not float32."""
        return {} if self.args.precision == "float32" else {"precision": self.args.precision}

    @property
    def settings(self) -> dict:
        """All settings that make the result of this solution, but data, model, solution, budget and seed."""
        args, solution = self.args, SOLUTIONS[self.args.solution]
        names = ["retrain_lr", "retrain_weightdecay", "retrain_epoch", "running_statistics"]
        if solution.by_region:
            names += ["sel_l_data", "sel_u_data"]
            if args.sel_l_data:
                names += ["cluster", *CLUSTERING_FLAGS[args.cluster]]
                if args.cell_size and "avg_clustersize" in names:  # k-means is part of it
                    names += ["cell_size"]
            if self.semi_supervised:
                names += ["exp", "u_weight", "disable_dynamic_u_weight"]
                if args.exp == 0:
                    names += ["auto_tao"] if args.auto_tao else ["avg_tao"] if args.avg_tao else ["tao"]
        if self.semi_supervised:
            names += ["lam_ul"]
        settings = {name: getattr(args, name) for name in names}
        if self.uses_embedding:
            made_by = self.extractor and checkpoint.digest(self.extractor.read_bytes())
            settings["fe"] = f"{MOCO}:{made_by}" if made_by else MODEL
        if args.labels:
            settings["labels"] = checkpoint.digest(Path(args.labels).read_bytes())
        return settings | self._rounding | {"weights": self.weights}


def budget_of(p_budget: float, n: int) -> int:
    """How many of n images `p_budget` percent are, cut. UserError if that is none, or more than all."""
    if not 0 < p_budget <= 100:
        raise UserError(f"a budget of {p_budget:g} percent (--p_budget) is not within the pool; give more than 0 and at most 100")
    budget = int(p_budget * n / 100)
    if budget == 0:
        raise UserError(f"a budget of {p_budget:g} percent (--p_budget) of {n} pool images is 0 images; give at least "
                        f"{np.ceil(100 / n * 1000) / 1000:g}")
    return budget
