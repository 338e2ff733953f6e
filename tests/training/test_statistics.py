"""statistics.py: batch norm's statistics are those of the replayed images, computed by hand."""
import copy

import torch

from hybridrepair.training.passes import Labelled
from hybridrepair.training.statistics import STATISTICS_IMAGES, estimate_statistics, statistics_images
from samples import NORMALISE, Small, flat, noise, same, weights_of


def test_statistics_of_two_layers_are_those_computed_by_hand():
    model, images = Small(), noise(300).images
    before = weights_of(model)
    estimate_statistics(model, NORMALISE, images)
    means, variances = {"norm1": [], "norm2": []}, {"norm1": [], "norm2": []}
    with torch.no_grad():
        for batch in (images[:256], images[256:]):
            x = NORMALISE(batch).double()
            for name in ("norm1", "norm2"):
                means[name].append(x.mean((0, 2, 3)))
                variances[name].append(x.var((0, 2, 3)))  # unbiased
                biased = x.var((0, 2, 3), unbiased=False, keepdim=True)
                x = model.conv((x - x.mean((0, 2, 3), keepdim=True)) / (biased + 1e-5).sqrt()) if name == "norm1" else x
    for name in ("norm1", "norm2"):
        norm = getattr(model, name)
        torch.testing.assert_close(norm.running_mean, (means[name][0] + means[name][1]) / 2)
        torch.testing.assert_close(norm.running_var, (variances[name][0] + variances[name][1]) / 2)
    assert all(before[name].equal(value) for name, value in model.named_parameters())


def test_momenta_are_restored_and_earlier_statistics_do_not_matter():
    model, images = Small(), noise(50).images
    model.norm2.momentum = None
    other = copy.deepcopy(model)
    other.norm1.running_mean += 100
    for each in (model, other):
        estimate_statistics(each, NORMALISE, images)
        assert (each.norm1.momentum, each.norm2.momentum) == (0.1, None)
    assert same(model.state_dict(), other.state_dict())


def test_statistics_are_estimated_on_replayed_images_with_the_train_transform_drawn_anew_in_each_epoch():
    train, replay = Labelled(flat(range(200)), torch.zeros(200, dtype=torch.int64)), torch.arange(50, 150)
    first, again, second = (statistics_images(train, replay, 10, epoch) for epoch in (1, 1, 2))
    assert len(first) == STATISTICS_IMAGES and torch.equal(first, again) and not torch.equal(first, second)
    levels = first.flatten(1).amax(1)  # of flat images that are partly black after the crop
    assert set(levels.tolist()) == set(range(50, 150)) and levels.bincount()[50:].min() >= STATISTICS_IMAGES // 100
    assert 0.5 < (first.flatten(1).amin(1) == 0).double().mean() < 1
