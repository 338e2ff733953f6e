"""The pool: the unlabelled field images, and the evidence on them that selection reads."""
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from hybridrepair.base.finiteness import blamed
from hybridrepair.base.interim import Interim
from hybridrepair.images.arrays import taken
from hybridrepair.images.augment import Normalise
from hybridrepair.images.data import Dataset
from hybridrepair.images.randomness import key
from hybridrepair.selection.clustering import Regions
from hybridrepair.selection.extractor import Extractor
from hybridrepair.selection.features import extract
from hybridrepair.selection.uncertainty import Unsmoothness, normalised, predict, unsmoothness

REMEDY = "check its weights, and mean and std of the dataset, or give another"  # where what a model makes of images is not finite


@dataclass(eq=False)
class Pool:
    """The pool of a dataset and what `model` makes of it, computed when first asked for: a strategies.Evidence.

    `cut` makes regions of the embedding. Latents are features by the `extractor`, or without one by the model, which is from `source`.
    What takes longest is among the `interim` results. UserError where what the model makes of them is not finite.
    """
    dataset: Dataset
    model: nn.Module
    normalise: Normalise
    device: torch.device
    seed: int
    batch_size: int
    extractor: Extractor | None
    cut: Callable[[Tensor], Regions]
    source: str = "the model"
    interim: Interim = field(default_factory=Interim)

    @property
    def pool_index(self) -> np.ndarray:
        """Positions in the dataset, int64 [N]."""
        return self.dataset.split["pool"]

    @property
    def n(self) -> int:
        return len(self.pool_index)

    @cached_property
    def images(self) -> Tensor:
        """uint8 [N, H, W, C], on the device."""
        return torch.from_numpy(taken(self.dataset.images, self.pool_index)).to(self.device)

    def _predict(self, features: bool) -> tuple[Tensor, ...]:
        with blamed(f"{self.source}: ", REMEDY):
            return predict(self.model, self.normalise, self.images, self.batch_size, features)

    @cached_property
    def _predictions(self) -> tuple[Tensor, ...]:
        return self._predict(features=True)

    @cached_property
    def probs(self) -> Tensor:
        """Softmax, float64 [N, C]. The features, a hundred times as large, are kept only where they were asked for before."""
        logits = self._predictions[0] if "_predictions" in self.__dict__ else self._predict(features=False)[0]
        return logits.double().softmax(1)

    @property
    def features(self) -> Tensor:
        """Input of the last linear layer, float32 [N, D]."""
        return self._predictions[1]

    def uncertainty_of(self, model: nn.Module) -> Unsmoothness:
        """What another model makes of the views of the pool, not normalised. The views are the same at every call of a run."""
        return unsmoothness(model, self.normalise, self.images, key(self.seed, "views of pool"), self.batch_size,
                            title="unsmoothness of pool")

    @cached_property
    def uncertainty(self) -> Unsmoothness:
        with blamed(f"{self.source}: ", REMEDY):
            return self.interim.of("uncertainty", Unsmoothness, lambda: self.uncertainty_of(self.model), self.device)

    @property
    def looked_at_views(self) -> bool:
        """Whether the solution has computed the uncertainty."""
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
    def latents(self) -> Tensor:
        """The features that --fe names, float32 [N, D]: those of an extractor are L2-normalised."""
        if self.extractor is None:
            return self.features
        return extract(self.extractor, self.normalise, self.images, self.batch_size)

    def embedding_of(self, images: Tensor) -> Tensor:
        """The embedding of other images uint8 [M, H, W, C], float32 [M, D]."""
        if not len(images):
            return self.embedding[:0]
        if self.extractor is None:
            return torch.nn.functional.normalize(predict(self.model, self.normalise, images, self.batch_size, True)[1], dim=1)
        return extract(self.extractor, self.normalise, images, self.batch_size)

    @property
    def embedding(self) -> Tensor:
        """The latents, L2-normalised: what clusters are made in. Not kept, since it is as large as they are."""
        return self.latents if self.extractor else torch.nn.functional.normalize(self.latents, dim=1)

    @cached_property
    def regions(self) -> Regions:
        return self.regions_in(lambda: self.embedding)

    def regions_in(self, embedding: Callable[[], Tensor]) -> Regions:
        """The regions of an embedding, which is that of this pool or of all of it that can be chosen: one of both in a run."""
        return self.interim.of("regions", Regions, lambda: self.cut(embedding()), self.device)
