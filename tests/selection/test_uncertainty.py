"""uncertainty.py: the measures beside hand-worked numbers, NumPy and scikit-learn, whatever the batches."""
import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_distances
from torch import Tensor, nn

from conftest import refusal
from hybridrepair.images.augment import Normalise
from hybridrepair.selection import uncertainty
from hybridrepair.selection.uncertainty import (
    disagreement,
    distance_to,
    entropy,
    normalised,
    predict,
    tau_estimates,
    tau_of,
    unsmoothness,
)


class Small(nn.Module):
    """Batch norm and a linear layer in float64 on images of 8 x 8 x 1: rounding by batch size stays out of sight."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(64).double(), nn.Linear(64, 3).double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.norm(x.double().flatten(1))
        return self.linear(features), features


NORMALISE = Normalise([0.5], [0.25])


def images(n: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1), dtype=np.uint8))


def softmaxes(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).dirichlet([0.3] * shape[-1], shape[:-1]))


def test_entropy_is_in_bits_and_0_log_0_is_0():
    probs = torch.tensor([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4, [0.5, 0.25, 0.125, 0.125]], dtype=torch.float64)
    assert entropy(probs).tolist() == pytest.approx([0, 1, 2, 1.75], abs=1e-12)
    assert entropy(probs.float()).dtype == torch.float32


def test_measures_of_three_views_by_hand():
    # clean image: undecided; its views: sure of one class each
    probs = torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    measures = disagreement(probs)
    assert measures.mean_entropy.tolist() == [1]
    assert measures.variance.tolist() == pytest.approx([0.5])  # (0 + 1/4 + 1/4) / (3 - 1) for each class
    assert measures.single_entropy.tolist() == [1]
    measures = disagreement(probs[[1, 2, 2]])
    assert measures.mean_entropy.tolist() == pytest.approx([math.log2(3) - 2 / 3])  # of (1/3, 2/3)
    assert measures.variance.tolist() == pytest.approx([2 / 3])
    assert measures.single_entropy.tolist() == [0]


def test_measures_equal_numpys():
    probs = softmaxes(9, 20, 5)
    measures = disagreement(probs)
    p = probs.numpy()
    for i in range(20):
        mean = p[:, i].mean(0)
        assert measures.mean_entropy[i].item() == pytest.approx(-sum(q * math.log2(q) for q in mean))
        assert measures.variance[i].item() == pytest.approx(sum(p[:, i, c].var(ddof=1) for c in range(5)))
        assert measures.single_entropy[i].item() == pytest.approx(-sum(q * math.log2(q) for q in p[0, i]))


def test_the_guess_is_the_class_of_the_mean_prediction():
    probs = torch.tensor([[.6, .4, 0], [.1, .5, .4], [.4, .4, .2]]).double()[:, None]  # the clean image alone would say 0
    assert disagreement(probs).guess.tolist() == [1]


def test_both_estimates_of_tau_by_hand():
    train, field = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    estimates = tau_estimates(train, field, torch.tensor([.2, .3, .7]).double())
    assert estimates.average == pytest.approx(.4) and estimates.auto == pytest.approx(.4)  # of fewer than 1000 all


def test_images_on_which_all_views_agree_have_no_variance():
    measures = disagreement(softmaxes(1, 4, 5).repeat(9, 1, 1))
    assert measures.variance.tolist() == pytest.approx([0] * 4, abs=1e-15)
    assert measures.mean_entropy.tolist() == pytest.approx(measures.single_entropy.tolist())


@torch.no_grad()
def test_unsmoothness_does_not_depend_on_the_batch_size():
    model = Small()
    whole = unsmoothness(model, NORMALISE, images(13), key=5, batch_size=1000)
    assert all(values.shape == (13,) for values in whole)
    assert [values.dtype for values in whole] == [torch.float64] * 3 + [torch.int64]
    for batch_size in (1, 9, 20, 13 * 9 - 1):
        for part, values in zip(unsmoothness(model, NORMALISE, images(13), 5, batch_size), whole):
            torch.testing.assert_close(part, values, rtol=0, atol=1e-12)
    other = unsmoothness(model, NORMALISE, images(13), key=6, batch_size=1000)
    assert not torch.allclose(other.mean_entropy, whole.mean_entropy)
    torch.testing.assert_close(other.single_entropy, whole.single_entropy)  # the clean image is in no need of a key


@torch.no_grad()
def test_single_entropy_is_that_of_the_prediction_for_the_clean_image():
    model = Small()
    measures = unsmoothness(model, NORMALISE, images(6), key=5, batch_size=20)
    logits, = predict(model, NORMALISE, images(6), batch_size=6)
    torch.testing.assert_close(measures.single_entropy, entropy(logits.double().softmax(1)), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_measuring_and_predicting_are_done_in_eval_mode_and_leave_no_trace():
    model = Small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    unsmoothness(model, NORMALISE, images(5), key=5, batch_size=20)
    predict(model, NORMALISE, images(5), batch_size=2)
    assert not model.training and all(value.equal(before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 4, 5, 100])
def test_predictions_do_not_depend_on_the_batch_size(batch_size):
    model = Small().eval()
    logits, features = predict(model, NORMALISE, images(9), batch_size, features=True)
    assert predict(model, NORMALISE, images(9), batch_size)[0].equal(logits)
    expected = model(NORMALISE(images(9)))
    assert logits.dtype == features.dtype == torch.float32
    torch.testing.assert_close(logits, expected[0].float())
    torch.testing.assert_close(features, expected[1].float())


@torch.no_grad()
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_images_whose_logits_or_entropies_are_not_finite_are_counted(value):
    class Breaking(Small):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            logits, features = super().forward(x)
            return torch.where(x[:, 0, 0, :1].round() == 2, value, logits), features

    some = images(7)
    some[:, 0, 0] = 0
    some[2:4, 0, 0] = 255  # 2 after normalisation
    for batch_size in (1, 3, 7):
        assert refusal(predict, Breaking(), NORMALISE, some, batch_size) == "the logits or features of 2 of 7 images are not finite"
    predict(Breaking(), NORMALISE, some[:2], 7)
    assert refusal(unsmoothness, Breaking(), NORMALISE, some, 5, 20, views=1) == "the entropies of 2 of 7 images are not finite"


def test_normalised_values_reach_from_0_to_1_and_zeros_stay_zeros():
    assert normalised(torch.tensor([0.0, 1.0, 4.0])).tolist() == [0, 0.25, 1]
    assert normalised(torch.zeros(3)).tolist() == [0, 0, 0]


def test_distance_to_the_train_set_by_hand():
    train = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    logits = torch.tensor([[5.0, 0.0], [1.0, 1.0], [0.0, -3.0]])
    nearest = 1 - 2 ** -0.5
    assert distance_to(train, logits, neighbours=1).tolist() == pytest.approx([0, nearest, 1], abs=1e-7)
    assert distance_to(train, logits, neighbours=2).tolist() == pytest.approx([0.5, nearest, 1])
    every = [1, (2 * nearest + 1 + 2 ** -0.5) / 3, 4 / 3]
    assert distance_to(train, logits, neighbours=100).tolist() == pytest.approx(every)  # all there are


@pytest.mark.parametrize("pairs", [uncertainty.PAIRS, 150 * 3, 1])
def test_distance_to_the_train_set_equals_scikit_learns_by_whatever_number_of_rows_at_a_time(pairs, monkeypatch):
    monkeypatch.setattr(uncertainty, "PAIRS", pairs)
    rng = np.random.default_rng(0)
    train, logits = rng.normal(size=(150, 10)), rng.normal(size=(1100, 10))  # more than one chunk
    expected = np.sort(cosine_distances(logits, train), axis=1)[:, :100].mean(1)
    assert distance_to(torch.from_numpy(train), torch.from_numpy(logits)).numpy() == pytest.approx(expected)


def test_tau_is_the_mean_unsmoothness_of_the_images_at_an_average_distance():
    distance = torch.tensor([0.0, 1.0, 2.0, 5.0])  # their gaps to the average, 2, are 2, 1, 0, 3
    values = torch.tensor([0.1, 0.2, 0.4, 0.8])
    assert tau_of(distance, values, typical=1) == pytest.approx(0.4)
    assert tau_of(distance, values, typical=2) == pytest.approx(0.3)
    assert tau_of(distance, values) == pytest.approx(0.375)  # fewer than 1000: all


def test_tau_prefers_the_lower_index_where_distances_are_equally_average():
    assert tau_of(torch.tensor([1.0, 3.0, 1.0, 3.0]), torch.tensor([0.0, 1.0, 2.0, 4.0]), typical=2) == 0.5


def test_tau_is_the_recorded_one(oracle):
    with np.load(oracle / "d_tau_N3000.npz", allow_pickle=False) as arrays:
        distance, values = (torch.from_numpy(arrays[name]) for name in ("avg_distance", "mean_entropy"))
        assert tau_of(distance, values) == pytest.approx(float(arrays["tau"]), rel=1e-12)
        picked = torch.zeros(3000)
        picked[arrays["picked"]] = 1
    assert tau_of(distance, picked) == 1  # the same 1000 images
