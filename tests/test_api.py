"""hybridrepair.select and hybridrepair.repair: arrays, tensors, datasets and modules in, a choice and a repaired copy out."""
import copy

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import hybridrepair
from hybridrepair.base.errors import UserError

DIGITS = load_digits(n_class=4)
IMAGES = np.rint(DIGITS.images * (255 / 16)).astype(np.uint8)[:540, :, :, None].repeat(3, axis=3)
LABELS = DIGITS.target[:540]
TRAIN, TEST, FIELD = slice(0, 160), slice(220, 340), slice(340, 540)
STATISTICS = {"mean": [0.3] * 3, "std": [0.32] * 3}
SHORT = {"retrain_epoch": 2, "retrain_lr": 0.005, "device": "cpu"}


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network of torch's own layers, trained in a few steps without any image of class 3."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                          nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 4))
    known = LABELS[TRAIN] != 3
    x = (torch.from_numpy(IMAGES[TRAIN][known]).permute(0, 3, 1, 2) / 255 - 0.3) / 0.32
    y = torch.from_numpy(LABELS[TRAIN][known])
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def part(name: slice) -> tuple[np.ndarray, np.ndarray]:
    return IMAGES[name], LABELS[name]


# the example of hybridrepair/api.py and the README, on images that a model has not seen a class of
def test_a_model_is_repaired_from_arrays(trained, capsys):
    weights = copy.deepcopy(trained.state_dict())
    chosen = hybridrepair.select(trained, IMAGES[FIELD], 20, train=part(TRAIN), test=part(TEST), **STATISTICS, **SHORT)
    assert len(set(chosen.annotated.tolist())) == 20 and (chosen.source >= 0).sum() > 20
    answers = LABELS[FIELD][chosen.annotated]
    result = hybridrepair.repair(trained, IMAGES[FIELD], chosen, answers, train=part(TRAIN), test=part(TEST), **STATISTICS, **SHORT)
    assert len(result.epochs) == 2 and result.epochs[-1]["ssl_loss"] > 0
    assert result.fixed - result.broken == pytest.approx((result.after - result.before) * 1.2)  # of 120 test images
    assert (result.labels[chosen.annotated] == answers).all() and (result.labels >= 0).sum() == (chosen.source >= 0).sum()
    assert type(result.model) is type(trained) and capsys.readouterr().out == ""
    assert all(value.equal(weights[name]) for name, value in trained.state_dict().items())  # which is left as it was
    x = (torch.from_numpy(IMAGES[TEST]).permute(0, 3, 1, 2) / 255 - 0.3) / 0.32
    with torch.no_grad():
        accuracy = (result.model.eval()(x).argmax(1).numpy() == LABELS[TEST]).mean()
    assert 100 * accuracy == pytest.approx(result.after, abs=0.9)  # one image


def test_a_model_learns_the_class_that_it_did_not_know(trained):
    settings = STATISTICS | {"solution": "random", "retrain_epoch": 20, "retrain_lr": 0.01, "device": "cpu"}
    chosen = hybridrepair.select(trained, IMAGES[FIELD], 40, train=part(TRAIN), test=part(TEST), **settings)
    answers = LABELS[FIELD][chosen.annotated]
    result = hybridrepair.repair(trained, IMAGES[FIELD], chosen, answers, train=part(TRAIN), test=part(TEST), **settings)
    assert result.after > result.before + 8


class Pictures(torch.utils.data.Dataset):
    """PIL images with their labels, as torchvision's datasets give them."""
    def __init__(self, name: slice, labels: bool = True):
        self.images, self.labels, self.with_labels = IMAGES[name], LABELS[name], labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i):
        image = Image.fromarray(self.images[i])
        return (image, int(self.labels[i])) if self.with_labels else image


@pytest.mark.parametrize("field, train", [
    (torch.from_numpy(IMAGES[FIELD]), (torch.from_numpy(IMAGES[TRAIN]), torch.from_numpy(LABELS[TRAIN]))),
    (IMAGES[FIELD].transpose(0, 3, 1, 2), (IMAGES[TRAIN], LABELS[TRAIN].tolist())),
    (torch.from_numpy(IMAGES[FIELD]).permute(0, 3, 1, 2) / 255, part(TRAIN)),
    (Pictures(FIELD), Pictures(TRAIN)), (Pictures(FIELD, labels=False), part(TRAIN))])
def test_the_same_images_in_any_form_give_the_same_choice(trained, field, train):
    expected = hybridrepair.select(trained, IMAGES[FIELD], 8, train=part(TRAIN), **SHORT)
    found = hybridrepair.select(trained, field, 8, train=train, **SHORT)
    assert found.annotated.tolist() == expected.annotated.tolist() and (found.source == expected.source).all()


def test_without_train_and_test_images_a_model_is_repaired_and_nothing_is_claimed(trained):
    chosen = hybridrepair.select(trained, IMAGES[FIELD], 20, solution="mcp", **STATISTICS, **SHORT)
    answers = LABELS[FIELD][chosen.annotated]
    result = hybridrepair.repair(trained, IMAGES[FIELD], chosen, answers, solution="mcp", **STATISTICS, **SHORT)
    assert result.before is result.after is result.fixed is None
    assert not all(value.equal(trained.state_dict()[name]) for name, value in result.model.state_dict().items())


class Elsewhere(torch.Tensor):
    """A tensor that numpy cannot read, as one on a GPU, unless it is asked to the CPU."""
    def numpy(self, *args, **more):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_images_labels_and_answers_may_lie_on_a_gpu(trained):
    def there(array):
        return torch.from_numpy(array).as_subclass(Elsewhere)
    expected = hybridrepair.select(trained, IMAGES[FIELD], 5, train=part(TRAIN), **SHORT)
    pairs = (there(IMAGES[TRAIN]), there(LABELS[TRAIN]))
    chosen = hybridrepair.select(trained, there(IMAGES[FIELD]), 5, train=pairs, **SHORT)
    assert chosen.annotated.tolist() == expected.annotated.tolist()
    answers = there(LABELS[FIELD][chosen.annotated])
    results = [hybridrepair.repair(trained, IMAGES[FIELD], chosen, given, train=[*zip(*pairs)], **SHORT)
               for given in (answers, [*answers])]
    assert all((result.labels == chosen.labels(answers.cpu().numpy())).all() for result in results)


def test_lines_are_printed_when_asked_for(trained, capsys):
    hybridrepair.select(trained, IMAGES[FIELD], 5, **SHORT)  # without T2 images it has no tau, which is told only if asked for
    assert capsys.readouterr().out == ""
    chosen = hybridrepair.select(trained, IMAGES[FIELD], 5, solution="gini", **SHORT)
    hybridrepair.repair(trained, IMAGES[FIELD], chosen, LABELS[FIELD][chosen.annotated], solution="gini", verbose=True, **SHORT)
    assert "Sequential on 200 field images: pool 200, budget 5" in capsys.readouterr().out


@pytest.mark.parametrize("change, message", [
    ({"budget": 0}, "budget of 0 is not within the 200"), ({"budget": 201}, "budget of 201"),
    ({"field": IMAGES[FIELD][..., 0]}, "field images are \\[200, 8, 8\\]"), ({"field": IMAGES[FIELD].astype(int)}, "are int64"),
    ({"field": IMAGES[FIELD] / 50}, "are floats from 0 to 5.1"),
    ({"train": (IMAGES[TRAIN], LABELS[TRAIN][:5])}, "a class number for each"),
    ({"train": (IMAGES[TRAIN], LABELS[TRAIN] + 3)}, "train labels are 3 to 6"),
    ({"test": (IMAGES[TEST][:, :4], LABELS[TEST])}, "the T2 images are \\[4, 8, 3\\]"),
    ({"classes": ["a", "b"]}, "2 class names, and the model gives 4"), ({"std": [0, 1, 1], "mean": [0, 0, 0]}, "std above 0"),
    ({"mean": [0.5], "std": [0.5]}, "3 numbers each"), ({"mean": [76.5] * 3, "std": [81.6] * 3}, "divide"),
    ({"model": 3}, "the model is a int"),
    ({"model": nn.Flatten()}, "no linear layer was found"),
    ({"model": nn.Linear(3, 4)}, "cannot take images of 3 x 8 x 8"), ({"labels": "x.csv"}, "labels is no setting here"),
    ({"sel_u_data": True}, "has nothing annotated"),
    ({"retrain_lr": -1}, "out of range"), ({"solution": "best"}, "invalid choice: 'best'")])
def test_what_cannot_be_used_is_one_sentence(trained, change, message):
    given = {"model": trained, "field": IMAGES[FIELD], "budget": 5, "train": part(TRAIN)} | change
    with pytest.raises(UserError, match=message):
        hybridrepair.select(**given)


def test_what_another_solution_chose_is_refused(trained):
    chosen = hybridrepair.select(trained, IMAGES[FIELD], 5, solution="gini", **SHORT)
    with pytest.raises(UserError, match="were not chosen by hybrid"):
        hybridrepair.repair(trained, IMAGES[FIELD], chosen, LABELS[FIELD][chosen.annotated], **SHORT)


def test_hybrid_plus_repairs_what_it_chose_itself_and_refuses_regions_that_take_labels(trained):
    plus = SHORT | {"solution": "hybrid+"}
    chosen = hybridrepair.select(trained, IMAGES[FIELD], 5, **plus)
    done = hybridrepair.repair(trained, IMAGES[FIELD], chosen, LABELS[FIELD][chosen.annotated], **plus)
    assert (done.labels >= 0).sum() == 5 and done.row["n_unlabelled"] == len(IMAGES[FIELD]) - 5
    others = hybridrepair.select(trained, IMAGES[FIELD], 5, **SHORT)
    assert others.propagated.any()
    with pytest.raises(UserError, match="hybrid. lets no image take the label of another"):
        hybridrepair.repair(trained, IMAGES[FIELD], others, LABELS[FIELD][others.annotated], **plus)


def test_zero_is_a_value_of_a_setting(trained):
    first, other, again = (hybridrepair.select(trained, IMAGES[FIELD], 5, solution="random", manualSeed=seed, device="cpu")
                           for seed in (0, 10, 0))
    assert first.annotated.tolist() == again.annotated.tolist() != other.annotated.tolist()


class Grey(nn.Module):
    """Reads one channel, and returns (logits, features) as the models of mymodels/ do."""
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4)

    def forward(self, x):
        features = x.flatten(1)
        return self.linear(features), features


def test_grey_pictures_stay_grey_and_the_first_of_a_pair_are_the_logits():
    pictures = [Image.fromarray(image[..., 0]) for image in IMAGES[FIELD]]
    model = Grey()
    expected = hybridrepair.select(model, IMAGES[FIELD][..., :1], 5, solution="gini", **SHORT)
    assert hybridrepair.select(model, pictures, 5, solution="gini", **SHORT).annotated.tolist() == expected.annotated.tolist()


@pytest.mark.parametrize("answers", [[0, 1], [0, 1, 2, 3, 4], [0.5] * 5, [-1, 0, 0, 0, 0]])
def test_answers_that_do_not_fit_are_refused(trained, answers):
    chosen = hybridrepair.select(trained, IMAGES[FIELD], 5, solution="gini", **SHORT)
    with pytest.raises(UserError, match="no answers to 5 images|the answers are"):
        hybridrepair.repair(trained, IMAGES[FIELD], chosen, answers, solution="gini", **SHORT)
