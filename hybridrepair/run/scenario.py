"""A scenario: the model under repair, its train set, T2, the pool and its annotator, as the flags of a repair name them."""
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hybridrepair.annotation import manifest
from hybridrepair.annotation.oracle import budget_of, known_labels, oracle_of
from hybridrepair.base import digests
from hybridrepair.base.device import device_of
from hybridrepair.base.errors import UserError
from hybridrepair.base.finiteness import blamed
from hybridrepair.base.interim import Interim
from hybridrepair.base.processes import led, told
from hybridrepair.images import data
from hybridrepair.images.arrays import UNKNOWN, chunks_of, taken
from hybridrepair.images.augment import Normalise
from hybridrepair.images.randomness import key
from hybridrepair.run import settings
from hybridrepair.run.models import Models, check, checkpoint_path
from hybridrepair.run.replay import replayed
from hybridrepair.selection.candidates import select_among
from hybridrepair.selection.clustering import Regions, regions
from hybridrepair.selection.extractor import extractor_of
from hybridrepair.selection.features import features_by, placed
from hybridrepair.selection.pool import REMEDY, Pool
from hybridrepair.selection.solutions import PUBLISHED_NAMES, SOLUTIONS, Selection, nothing
from hybridrepair.selection.uncertainty import Tau, normalised, predict, tau_estimates, unsmoothness
from hybridrepair.training.passes import Labelled


def cut_once(embedding: torch.Tensor, **how) -> Regions:
    """The regions of an embedding. Of several processes the first cuts: it takes the memory and the cores of a machine."""
    made = led(lambda: [part.cpu() for part in regions(embedding, **how)])
    return Regions(*(part.to(embedding.device) for part in made))


class Scenario:
    """What a repair starts from; see the properties. `seconds` holds the wall-clock seconds of each named stage.

    Computed when first asked for, so that a solution costs what it needs and no more; what takes longest is among the `interim`
    results, of which whoever wants them kept says where. UserError for input that cannot be used.
    """

    def __init__(self, args, dataset: data.Dataset | None = None):
        """The dataset is read as the flags say, unless it is given."""
        self.args = args
        self.seconds: dict[str, float] = {}
        self.interim = Interim()
        args.solution = PUBLISHED_NAMES.get(args.solution, args.solution)
        if not (args.sel_l_data or args.sel_u_data):
            args.sel_l_data = args.sel_u_data = True
        with self.stage("load"):
            self.device = device_of(args.device)
            self.seed, self.batch_size = args.manualSeed, args.batch_size
            self.dataset = dataset or data.load(args.dataset, args.data_path, args.img_size, args.skip_bad)
            data.require(self.dataset, "pool")
            self.settle()
            self.manifest = manifest.beside(Path(args.labels), args.manifest) if args.labels else None
            self.budget = len(self.manifest.images) if self.manifest else budget_of(args.p_budget, len(self.dataset.split["pool"]))
            self.oracle = oracle_of(self.dataset, self.budget, args.labels, self.manifest)
            self.known = known_labels(self.dataset, args.labelled, propagated=not SOLUTIONS[args.solution].taught)
            # of the latents, told before a training of hours where it is missing
            self.extractor = extractor_of(args.fe, args.dataset) if settings.uses_embedding(args) else None
            if args.check:
                if self.extractor:
                    images = torch.from_numpy(taken(self.dataset.images, self.dataset.split["pool"][:2])).to(self.device)
                    features_by(self.extractor, placed(self.extractor, self.device), self.normalise, images)
                self.has_model = check(args, self.dataset)
                return
            self.weights = self._find_model()
            self.asked = self._asked_before(self.manifest) if self.manifest and settings.annotates(args) else None

    def _find_model(self) -> str:
        """The digest of the model under repair, once it is found."""
        self.checkpoint_path = checkpoint_path(self.args)
        return digests.of(self.checkpoint_path.read_bytes())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to `seconds[name]`."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def settle(self) -> None:
        """Make the flags those that the dataset's parts allow: without T2 or train images tau is --tao. UserError where none do."""
        args, missing = self.args, [part for part, index in self.dataset.split.items() if not len(index)]
        if args.manifest and not args.labels:
            raise UserError("--manifest names the images that --labels answers; give --labels too")
        if "train" in missing and not args.no_replay:
            raise UserError(f"dataset {args.dataset} has no train images to replay; add those that the model was trained on, or repair "
                            "without them by --no_replay")
        if args.no_replay and args.estimated_statistics:
            raise UserError("--estimated_statistics reads replayed images, and --no_replay leaves those out; give one of them")
        if args.no_replay and args.sel_u_data and not args.sel_l_data:
            raise UserError("--no_replay with --sel_u_data alone leaves no labelled image to train on; add --sel_l_data")
        estimated = args.auto_tao or args.avg_tao
        args.avg_tao &= "T2" not in missing
        args.auto_tao &= "T2" not in missing and not args.no_replay
        if estimated and not (args.auto_tao or args.avg_tao) and args.sel_u_data and SOLUTIONS[args.solution].trusts:
            why = "there are no T2 images" if "T2" in missing else "--no_replay leaves out the train images"
            print(f"tau is --tao {args.tao:g}: {why} to estimate it from", flush=True)

    @property
    def name(self) -> str:
        """What is repaired, for the terminal."""
        which = "ABC"[self.args.model_number] if self.args.model2test_path is None else f"of {self.checkpoint_path}"
        return f"{self.args.model2test_arch} {which} on {self.args.dataset}"

    @property
    def checked(self) -> str:
        """What --check has found to be right, for the terminal."""
        pool, but = len(self.dataset.split["pool"]), "" if self.has_model else ", but for the model's weights, which are not there yet"
        return f"checked{but}: {self.args.solution} on {self.args.dataset}, {self.budget} of {pool} images to annotate"

    @property
    def source(self) -> str:
        """Where the model under repair comes from, for messages."""
        return f"checkpoint {self.checkpoint_path}"

    @cached_property
    def settings(self) -> dict:
        made = settings.settings_of(self.args, self.dataset, self.extractor, self.data, self.weights)
        return made | settings.resolution(self.dataset)

    # --- what is annotated

    @cached_property
    def origin(self) -> manifest.Origin:
        """What a choice is made with here."""
        index = self.dataset.split["pool"]
        parts = np.array_split(index, len(index) // 1000 + 1)
        pool = digests.of(*(digests.of(chunks_of(self.dataset.images, part)).encode() for part in parts))
        made = settings.selection_settings(self.args, self.settings)
        made |= {name: " ".join(f"{value:.6g}" for value in values) for name, values in (("mean", self.dataset.mean),
                                                                                       ("std", self.dataset.std))}
        return manifest.Origin({"file": str(self.checkpoint_path), "digest": self.weights}, self.dataset.class_names,
                               {"n": len(index), "digest": pool}, made)

    def _asked_before(self, made: manifest.Manifest) -> Selection:
        """The choice of the manifest. UserError where it was made with something else, or where answers are missing that are needed."""
        manifest.check(made, self.origin)
        asked = manifest.selection_of(made, self.dataset)
        if not self.args.allow_missing:
            self.oracle.check(asked.annotated)
        return asked

    @cached_property
    def selection(self) -> Selection:
        """What is annotated: as the manifest has it, or else chosen among what has no label yet. UserError if nothing is left."""
        if not settings.annotates(self.args):
            return nothing(self.pool.n)
        if self.asked is None and (self.known != UNKNOWN).all():
            raise UserError(f"all {self.pool.n} pool images are labelled by --labelled, so there is nothing to select; leave one out")
        chosen = self.asked or select_among(self.pool, self.args.solution, self.budget, self.known)
        chosen = Selection(*told(chosen[:3]), chosen.regions)
        if self.args.labels:
            self.oracle.tell_unused(chosen.annotated)
        return chosen

    # --- images

    @cached_property
    def data(self) -> str:
        """The digest of all that is given, but the model: the dataset, and which of its images are replayed."""
        return digests.of(self.dataset.digest.encode(), self.replayable)

    @cached_property
    def replayable(self) -> np.ndarray:
        """What the model under repair was trained on, indices int64 into the train part; none where nothing is to be replayed."""
        return replayed(self.args, self.dataset, self.checkpoint_path)

    @cached_property
    def normalise(self) -> Normalise:
        return Normalise(self.dataset.mean, self.dataset.std, self.device)

    @cached_property
    def train(self) -> Labelled:
        """The biased train set of the model under repair; empty where nothing is to be replayed."""
        return Labelled.of(self.dataset, self.dataset.split["train"][self.replayable], self.device)

    @cached_property
    def t2(self) -> Labelled:
        return Labelled.of(self.dataset, self.dataset.split["T2"], self.device)

    @property
    def judged_on(self) -> str:
        """The part that accuracy is reported on: T2, or val where there is no T2, or none."""
        return next((part for part in ("T2", "val") if len(self.dataset.split[part])), "")

    @cached_property
    def judged(self) -> Labelled:
        """The images of that part, none where it is none."""
        index = self.dataset.split[self.judged_on or "val"]
        return self.t2 if self.judged_on == "T2" else Labelled.of(self.dataset, index, self.device)

    @cached_property
    def pool(self) -> Pool:
        """The pool, with the evidence of the model under repair as its checkpoint has it."""
        args = self.args
        cut = partial(cut_once, budget=self.budget, cluster=args.cluster, size=args.avg_clustersize, eps=args.eps,
                      min_samples=args.min_samples, cell_size=args.cell_size)
        return Pool(self.dataset, self.models.raw, self.normalise, self.device, self.seed, self.batch_size, self.extractor, cut,
                    self.source, self.interim)

    # --- models and what they make of the judged part and of T2

    @cached_property
    def models(self) -> Models:
        return Models(self.args, self.checkpoint_path, self.weights, self.dataset, self.device, self.normalise, self.train,
                      self.accuracy_of)

    def predictions_of(self, model: nn.Module) -> torch.Tensor:
        """Predicted classes of the judged part, int64 [N]."""
        if not self.judged_on:
            return self.judged.labels
        return predict(model, self.normalise, self.judged.images, self.batch_size)[0].argmax(1)

    def score(self, predicted: torch.Tensor) -> float | None:
        """Percentage of the judged part whose predicted class int64 [N] is right, None where there is none."""
        return 100 * (predicted == self.judged.labels).double().mean().item() if self.judged_on else None

    def accuracy_of(self, model: nn.Module) -> float | None:
        """Accuracy on the judged part in percent, None where there is none."""
        return self.score(self.predictions_of(model))

    @cached_property
    def acc_raw(self) -> float | None:
        """Accuracy of the model under repair as its checkpoint has it. UserError where its logits are not finite."""
        with blamed(f"{self.source}: ", REMEDY):
            return self.accuracy_of(self.models.raw)

    @cached_property
    def tau_estimates(self) -> Tau:
        """Estimates of the smoothness threshold, by the model under repair as its checkpoint has it; None where images lack for one."""
        return self.interim.of("tau", Tau, self._estimate_tau)

    def _estimate_tau(self) -> Tau:
        if not len(self.t2.labels):
            return Tau(None, None)
        with blamed(f"{self.source}: ", REMEDY):
            t2 = normalised(unsmoothness(self.models.raw, self.normalise, self.t2.images, key(self.seed, "views of T2"),
                                         self.batch_size, title="unsmoothness of T2").mean_entropy)
            if not len(self.train.labels):
                return Tau(None, t2.mean().item())
            train, field = (predict(self.models.raw, self.normalise, images, self.batch_size)[0]
                            for images in (self.train.images, self.t2.images))
            return tau_estimates(train, field, t2)

    @property
    def tau(self) -> float:
        """The smoothness threshold, by the rule that the flags choose."""
        estimate = {"auto_tao": self.tau_estimates.auto, "avg_tao": self.tau_estimates.average}.get(settings.tau_rule(self.args))
        return self.args.tao if estimate is None else estimate
