"""The published form of each step, which the benchmarks compare with: PIL images one by one, NCHW float32, a loop per point.

Written from the method's description, with the tools it was published with: a Dataset of PIL images in a DataLoader with
workers, explicit gradient embeddings, HDBSCAN and KMeans of scikit-learn. Nothing here is used by the project itself.
"""
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import pairwise_distances
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchvision import transforms

VIEWS, SEVERITY, WORKERS = 8, 3.0, 2


# --- AugMix, an image at a time

def level() -> float:
    return np.random.uniform(0.1, SEVERITY)


def signed(value: float) -> float:
    return value if np.random.rand() < 0.5 else -value


def shear(image: Image.Image, x: float, y: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, (1, x, 0, y, 1, 0), resample=Image.Resampling.BILINEAR)


def translate(image: Image.Image, x: int, y: int) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, x, 0, 1, y), resample=Image.Resampling.BILINEAR)


def pixels(image: Image.Image) -> int:
    return int(level() * (image.size[0] / 3) / 10)


OPERATIONS = [
    ImageOps.autocontrast,
    ImageOps.equalize,
    lambda image: ImageOps.posterize(image, 4 - int(level() * 4 / 10)),
    lambda image: ImageOps.solarize(image, 256 - int(level() * 256 / 10)),
    lambda image: image.rotate(signed(int(level() * 30 / 10)), resample=Image.Resampling.BILINEAR),
    lambda image: shear(image, signed(level() * 0.03), 0),
    lambda image: shear(image, 0, signed(level() * 0.03)),
    lambda image: translate(image, signed(pixels(image)), 0),
    lambda image: translate(image, 0, signed(pixels(image))),
]


def to_input(mean, std):
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])


def augmix(image: Image.Image, preprocess) -> Tensor:
    """One view, float32 [C, H, W]."""
    changed = image.copy()
    for _ in range(np.random.randint(1, 4)):
        changed = OPERATIONS[np.random.randint(len(OPERATIONS))](changed)
    m = np.float32(np.random.uniform())
    return (1 - m) * preprocess(image) + m * preprocess(changed)


class Views(Dataset):
    """Of each image uint8 [N, H, W, C]: the clean one and its views, a list of 1 + VIEWS tensors; its label; its index."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, mean, std):
        self.images, self.labels, self.preprocess = [Image.fromarray(image) for image in images], labels, to_input(mean, std)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        image = self.images[i]
        views = [self.preprocess(image)] + [augmix(image, self.preprocess) for _ in range(VIEWS)]
        return views, int(self.labels[i]), i


class Plain(Dataset):
    """Images uint8 [N, H, W, C] with a transform on PIL images, and their labels."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


def train_transform(size: int, mean, std):
    return transforms.Compose([transforms.RandomHorizontalFlip(), transforms.RandomCrop(size, padding=size // 8),
                               to_input(mean, std)])


def loader(dataset: Dataset, batch_size: int, shuffle: bool = False, sampler=None) -> DataLoader:
    return DataLoader(dataset, batch_size, shuffle=shuffle, sampler=sampler, num_workers=WORKERS)


# --- the network

@torch.no_grad()
def unsmoothness(model: nn.Module, dataset: Views, batch_size: int = 64) -> np.ndarray:
    """Mean entropy over views in bits, float [N]."""
    model.eval()
    entropies = []
    for views, _, _ in loader(dataset, batch_size):
        probs = F.softmax(model(torch.cat(views))[0], dim=1).view(1 + VIEWS, -1, model.linear.out_features)
        mean = probs.mean(0).numpy()
        entropies += [-sum(p * np.log2(p) for p in row if p > 0) for row in mean]
    return np.array(entropies)


@torch.no_grad()
def predict(model: nn.Module, dataset: Dataset, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Logits [N, C] and features [N, D]."""
    model.eval()
    outputs = [model(images) for images, _ in loader(dataset, batch_size)]
    return tuple(torch.cat(parts) for parts in zip(*outputs))


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, dataset: Dataset, smoothing: float = 0.0) -> None:
    model.train()
    for inputs, labels in loader(dataset, 64, shuffle=True):
        logits = model(inputs)[0]
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()


def ssl_step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor, views: list[Tensor],
             known: Tensor, lam_ul: float = 100.0) -> None:
    """One MixMatch-like step on [64, C, H, W], and 1 + VIEWS tensors like it; known int64 [64], -1 without a label."""
    model.train()
    with torch.no_grad():
        probs = torch.stack([F.softmax(part, dim=1) for part in model(torch.cat(views))[0].chunk(1 + VIEWS)]).mean(0)
        target = probs ** 2
        target /= target.sum(1, keepdim=True)
        classes = target.shape[1]
        for i, label in enumerate(known.tolist()):
            if label >= 0:
                target[i] = 0.1 / (classes - 1)
                target[i, label] = 0.9
    everything = torch.cat([inputs, *views])
    targets = torch.cat([F.one_hot(labels, classes).float()] + [target] * (1 + VIEWS))
    share = np.random.beta(0.75, 0.75)
    share = max(share, 1 - share)
    perm = torch.randperm(len(everything))
    mixed = share * everything + (1 - share) * everything[perm]
    mixed_targets = share * targets + (1 - share) * targets[perm]
    logits = model(mixed)[0]
    supervised = F.cross_entropy(logits[:len(labels)], labels)
    unsupervised = ((F.softmax(logits[len(labels):], dim=1) - mixed_targets[len(labels):]) ** 2).mean()
    loss = supervised + lam_ul * unsupervised
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss.item()


# --- selection

def coreset(features: np.ndarray, budget: int) -> np.ndarray:
    """k-center greedy from index 0."""
    chosen, distance = [0], None
    while len(chosen) < budget:
        to_last = pairwise_distances(features, features[chosen[-1:]]).reshape(-1)
        distance = to_last if distance is None else np.minimum(distance, to_last)
        chosen.append(int(np.argmax(distance)))
    return np.array(chosen)


def badge(probs: np.ndarray, features: np.ndarray, budget: int, draws: np.ndarray) -> np.ndarray:
    """k-means++ on explicit gradient embeddings float32 [N, C * D], with the given uniform draws."""
    n, classes = probs.shape
    width = features.shape[1]
    embedding = np.zeros((n, classes * width), dtype=np.float32)
    predicted = probs.argmax(1)
    for i in range(n):
        for c in range(classes):
            embedding[i, c * width:(c + 1) * width] = features[i] * ((c == predicted[i]) - probs[i, c])
    chosen = [int(np.argmax((embedding.astype(np.float64) ** 2).sum(1) if n < 1000
                            else [np.dot(row, row) for row in embedding]))]
    distance = None
    for u in draws[:budget - 1]:
        to_last = pairwise_distances(embedding, embedding[chosen[-1:]]).ravel().astype(np.float64)
        if distance is None:
            distance = to_last
        else:
            for i in range(n):
                if distance[i] > to_last[i]:
                    distance[i] = to_last[i]
        probability = distance ** 2 / (distance ** 2).sum()
        chosen.append(int(np.searchsorted(np.cumsum(probability), u, side="right")))
    return np.array(chosen)


def regions(features: np.ndarray, budget: int, size: int = 10, seed: int = 0) -> tuple[np.ndarray, float]:
    """Labels int [N], -1 for noise, and the inertia of the k-means clusters."""
    label = HDBSCAN(min_samples=3, min_cluster_size=5, copy=True).fit_predict(features)
    kept = np.flatnonzero(label != -1)
    k = max(len(kept) // size, min(budget, len(kept)))
    model = KMeans(k, n_init=10, random_state=seed).fit(features[kept])
    label[kept] = model.labels_
    return label, model.inertia_


# --- the whole run

def hybrid_repair(raw: nn.Module, model: nn.Module, images: dict[str, np.ndarray], labels: dict[str, np.ndarray], mean, std,
                  budget: int, epochs: int, tau: float = 0.1) -> float:
    """HybridRepair on parts "train", "T2" and "pool": accuracy on T2 in percent.

    The raw model selects; `model`, whose own fine-tuning is done, is trained.
    """
    size = images["train"].shape[1]
    views = Views(images["pool"], labels["pool"], mean, std)
    plain = {part: Plain(images[part], labels[part], to_input(mean, std)) for part in images}
    unsmooth = unsmoothness(raw, views)
    unsmooth /= unsmooth.max()
    trusted = unsmooth <= tau
    features = F.normalize(predict(raw, plain["pool"])[1]).numpy()
    label, _ = regions(features, budget)
    members = [np.flatnonzero(label == region) for region in range(label.max() + 1)]
    members.sort(key=lambda member: -unsmooth[member].sum())
    known = np.full(len(label), -1)
    for member in members[:budget]:
        centre = features[member].mean(0)
        known[member] = labels["pool"][member[np.argmin(((features[member] - centre) ** 2).sum(1))]]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4)
    accuracy = 0.0

    def replay_of() -> Plain:
        right = predict(model, plain["train"])[0].argmax(1).numpy() == labels["train"]
        return Plain(images["train"][right], labels["train"][right], train_transform(size, mean, std))

    for _ in range(epochs):
        replay = replay_of()
        chosen = Plain(images["pool"][known >= 0], known[known >= 0], to_input(mean, std))
        classes = model.linear.out_features
        train_epoch(model, optimizer, torch.utils.data.ConcatDataset([replay, chosen]), 0.1 * classes / (classes - 1))
        replay = replay_of()
        weights = np.where(known >= 0, 1.0, np.where(trusted, 1 - unsmooth, 0.0))
        steps = max(len(replay) // 64, len(views) // 64, 1)
        drawn = loader(views, 64, sampler=WeightedRandomSampler(torch.from_numpy(weights), steps * 64))
        replayed = loader(replay, 64, sampler=torch.utils.data.RandomSampler(replay, num_samples=steps * 64))
        for (inputs, y), (parts, _, index) in zip(replayed, drawn):
            ssl_step(model, optimizer, inputs, y, parts, torch.from_numpy(known)[index])
        accuracy = 100 * (predict(model, plain["T2"])[0].argmax(1).numpy() == labels["T2"]).mean()
        unsmooth = unsmoothness(model, views)
        unsmooth /= unsmooth.max()
    return accuracy
