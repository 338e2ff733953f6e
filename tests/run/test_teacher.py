"""teacher.py: what soft labels are made of, and of what they are not."""
from pathlib import Path

import numpy as np
import pytest
import torch

import repair
from conftest import CALL, refusal, write_small, write_tiny
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.run import teacher
from hybridrepair.run.scenario import Scenario
from hybridrepair.run.teacher import Teacher, teacher_of

FLAGS = [*CALL, "--dataset", "small", "--p_budget", "10", "--solution", "hybrid+"]
EXTRACTOR = """
from torch import nn


def build():
    network = nn.Sequential(nn.Flatten())
    network.size, network.mean, network.std = 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return network
"""


@pytest.fixture
def field(tmp_path, monkeypatch) -> Path:
    """The working directory: digits of four classes, a network that knows nothing of them, and pixels as features."""
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path / "data")
    write_tiny(tmp_path, 4)
    Path("biased_dataset/0").mkdir(parents=True)
    np.save("biased_dataset/0/train.npy", np.arange(120))
    Path("pixels.py").write_text(EXTRACTOR)
    return tmp_path


def scenario(*flags: str) -> Scenario:
    return Scenario(repair.parse_args([*FLAGS, *flags]))


def taught(task: Scenario, known: list[int], truth: np.ndarray) -> Teacher:
    labels = np.full(task.pool.n, UNKNOWN)
    labels[known] = truth[known]
    return teacher_of(task, labels, labels != UNKNOWN)


def right(made: Teacher, truth: np.ndarray) -> float:
    return 100 * float((made.targets.argmax(1).numpy() == truth).mean())


def truth_of(task: Scenario) -> np.ndarray:
    return task.dataset.labels[task.dataset.split["pool"]]


def test_known_images_have_their_label_and_all_others_a_distribution(field):
    task = scenario()
    targets = taught(task, [3, 7], np.arange(200) % 4).targets  # whatever was answered
    assert targets.dtype == torch.float32 and targets.shape == (200, 4) and torch.allclose(targets.sum(1), torch.ones(200))
    assert torch.allclose(targets[[3, 7]], torch.tensor([[1 / 30] * 3 + [0.9]] * 2))


@pytest.mark.parametrize("fe", ["model2test", "pixels.py:build"])
def test_features_teach_what_the_model_does_not_know(field, fe):
    task = scenario("--fe", fe)
    truth = truth_of(task)
    model = 100 * float((task.pool.probs.argmax(1).numpy() == truth).mean())
    made = taught(task, list(range(0, 200, 10)), truth)
    assert right(made, truth) > max(model, 60) + 20 and made.features > made.model


def test_without_an_answer_both_opinions_count_alike(field):
    task = scenario("--fe", "pixels.py:build")
    made = taught(task, [], truth_of(task))
    assert made[1:] == (0.5, 0.5) and right(made, truth_of(task)) > 90


def test_a_class_that_is_missing_in_the_train_set_is_learnt_from_answers(field):
    labels = np.load("data/small/labels.npy")
    np.save("biased_dataset/0/train.npy", np.flatnonzero(labels[:160] != 3))
    task = scenario("--fe", "pixels.py:build")
    truth = truth_of(task)
    before, after = (taught(task, known, truth).targets.argmax(1).numpy() for known in ([], list(range(0, 200, 5))))
    assert (before == 3)[truth == 3].mean() < 0.2 and (after == 3)[truth == 3].mean() > 0.8


def test_answers_of_earlier_rounds_teach_the_classifier_and_decide_no_weights(field):
    task = scenario("--fe", "pixels.py:build")
    labels, new = np.full(200, UNKNOWN), np.zeros(200, bool)
    labels[:100] = truth_of(task)[:100]
    earlier, nothing = teacher_of(task, labels, new), teacher_of(task, np.full(200, UNKNOWN), new)
    assert earlier[1:] == (0.5, 0.5) and (earlier.targets[:100].argmax(1).numpy() == labels[:100]).all()
    assert not torch.allclose(earlier.targets[100:], nothing.targets[100:])
    new[90:100] = True
    assert teacher_of(task, labels, new).features > 0.5


def test_of_a_large_train_set_a_part_is_learnt_from(field, monkeypatch):
    task, seen = scenario("--fe", "pixels.py:build"), []
    genuine = teacher.opinion_of_features
    monkeypatch.setattr(teacher, "opinion_of_features", lambda train, labels, *more: (
        seen.append((train.shape, labels.tolist())), genuine(train, labels, *more))[1])
    monkeypatch.setattr(teacher, "LEARNT", 40)
    made = taught(task, [1, 2, 3], np.arange(200) % 4)
    (shape, labels), = seen
    assert shape == (40, 192) and set(labels) == {0, 1, 2, 3} and labels != task.train.labels[:40].tolist()
    assert taught(task, [1, 2, 3], np.arange(200) % 4).targets.equal(made.targets)


def test_opinions_are_combined_in_blocks_of_any_size(field, monkeypatch):
    task = scenario("--fe", "pixels.py:build")
    whole = taught(task, [1, 2, 3], np.arange(200) % 4).targets
    monkeypatch.setattr(teacher, "ROWS", 7)
    torch.testing.assert_close(taught(task, [1, 2, 3], np.arange(200) % 4).targets, whole)


def test_labels_of_the_pool_that_nobody_asked_for_are_not_read(field):
    def targets() -> torch.Tensor:
        task = scenario("--fe", "pixels.py:build")
        return taught(task, [1, 2, 3, 4], np.arange(200) % 4).targets

    before, labels = targets(), np.load("data/small/labels.npy")
    labels[340:] = 0
    np.save("data/small/labels.npy", labels)
    assert targets().equal(before)


def test_without_train_images_answers_alone_teach(field):
    task = scenario("--fe", "pixels.py:build", "--no_replay")
    truth = truth_of(task)
    assert right(taught(task, list(range(0, 200, 5)), truth), truth) > 85
    nobody = taught(task, [], truth)
    assert nobody[1:] == (0.5, 0.5) and nobody.targets.argmax(1).equal(task.pool.probs.argmax(1))


def test_a_missing_extractor_is_told_before_anything_is_computed_also_where_nothing_is_annotated(field):
    assert "there is no feature extractor none.tar" in refusal(scenario, "--fe", "none.tar", "--sel_u_data")
