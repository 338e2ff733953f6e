"""What a repair refuses, in one sentence."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hybridrepair.run.course
import repair
import selection
from hybridrepair.base import checkpoint
from small import MODEL_FILE, baselines, refused


def damage(path: str, content: bytes | dict) -> None:
    Path(path).write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)


@pytest.mark.parametrize("flags, parts", [
    (["--dataset", "smal"], ["dataset smal is unknown", "cifar10", "digits"]),
    (["--model_number", "1"], ["no model under repair", "MobileNet_1_b.t7", "MODEL_NOS=1 sh train.sh"]),
    (["--model2test_path", "none.t7"], ["no model under repair none.t7", "correct --model2test_path", "train.sh"]),
    (["--fe", "mocov3"], ["no feature extractor", "DATASET=small PRETRAIN_FE=1 sh train.sh"]),
    (["--fe", "nowhere.pth.tar"], ["no feature extractor nowhere.pth.tar"]),
    (["--p_budget", "0"], ["budget of 0 percent", "more than 0"]),
    (["--p_budget", "101"], ["budget of 101 percent", "at most 100"]),
    (["--p_budget", "0.1"], ["0 images", "at least 0.5"]),
    (["--p_budget", "nan"], ["budget"]),
    (["--labels", "none.csv"], ["labels file none.csv", "cannot be read"]),
    (["--device", "abacus"], ["device abacus cannot be used"]),
], ids=lambda value: "_".join(value) if value[0].startswith("--") else "")
def test_wrong_input_is_named(field, capsys, flags, parts):
    message = refused(capsys, *flags)
    assert all(part in message for part in parts), message
    assert not Path("save").exists()


@pytest.mark.parametrize("flags, told", [
    (["--fe", "data/small/labels.npy"], "data/small/labels.npy"), (["--fe", "net.py"], "--fe net.py names no function; give FILE.py:"),
    (["--model2test_arch", "resnet18"], "does not fit resnet18"), (["--model2test_path", "none.t7"], "no model under repair none.t7"),
    (["--model2test_arch", "torchvision:resnet999"], "torchvision has no classifier 'resnet999'"),
    (["--model2test_arch", "none.py:build"], "there is no file none.py"),
    (["--model2test_path", "data/small/labels.npy"], "data/small/labels.npy"),
    (["--labels", ""], "argument --labels: it is empty; give a file or a folder")])
def test_a_check_finds_what_a_training_would_be_in_vain_for(field, capsys, flags, told):
    if "resnet18" in flags:
        Path(MODEL_FILE).rename("check_point/small/ckpt_bias/resnet18_0_b.t7")
    assert told in refused(capsys, "--check", *flags) and not Path("save").exists()


@pytest.mark.parametrize("flags, part", [(["--solution", "mpc"], "mpc"), (["--model2test_arch", "VGG"], "VGG"),
                                         (["--retrain_epoch", "0"], "0 is out of range"), (["--pbudget", "1"], "--pbudget")])
def test_wrong_flags_are_named_with_those_to_choose_from(capsys, flags, part):
    with pytest.raises(SystemExit) as stop:
        repair.parse_args(flags)
    message = capsys.readouterr().err
    assert stop.value.code == 2 and part in message and message.count("\n") == 1


@pytest.mark.parametrize("content, part", [
    (b"", "cannot be read"), (None, "cannot be read"), ({"weights": 1}, "is no state_dict"),
    ({"net": {"fc.weight": torch.zeros(2, 2)}}, "does not fit MobileNet")],
    ids=["empty", "truncated", "foreign", "mismatching"])
def test_checkpoint_that_cannot_be_used_is_named(field, capsys, content, part):
    damage(MODEL_FILE, Path(MODEL_FILE).read_bytes()[:1000] if content is None else content)
    message = refused(capsys)
    assert MODEL_FILE in message and part in message


def test_checkpoint_of_another_number_of_classes_is_named(field, capsys):
    description = json.loads(Path("data/small/dataset.json").read_text())
    description["classes"].append("four")
    Path("data/small/dataset.json").write_text(json.dumps(description))
    message = refused(capsys)
    assert "linear.weight is (4, 1024), not (5, 1024)" in message and "number of classes" in message


@pytest.mark.parametrize("line, part", [("12,two", "image '12' is not in the pool"), ("340,seven", "'seven' is no class"),
                                        ("x,two", "image 'x'")])
def test_labels_file_with_an_unknown_row_is_named_with_its_line(field, capsys, line, part):
    Path("answers.csv").write_text(f"index,label\n341,two\n{line}\n")
    message = refused(capsys, "--labels", "answers.csv")
    assert "answers.csv, line 3" in message and part in message


def test_labels_file_without_an_answer_that_is_needed_says_so(field, capsys):
    Path("answers.csv").write_text("index,label\n341,two\n")
    message = refused(capsys, "--labels", "answers.csv")
    assert "labels file answers.csv has no label for" in message and "--labels" in message
    assert not Path("save/small_MobileNet/results.csv").exists()


@pytest.mark.parametrize("flags, told", [
    (["--solution", "random", "--retrain_lr", "1e30"], ["finite; lower --retrain_lr than 1e+30, the likely cause"]),
    (["--solution", "random", "--retrain_lr", "1e300"], ["step 1 of the supervised pass", "lower --retrain_lr than 1e+300"]),
    (["--solution", "random", "--retrain_weightdecay", "1e300"], ["lower --retrain_weightdecay than 1e+300"]),
    (["--solution", "hybrid+", "--distill_lr", "1e300"], ["step 1 of the distillation pass", "lower --distill_lr than 1e+300"]),
    pytest.param(["--solution", "SSLRandom", "--lam_ul", "1e300"], ["step 1 of the SSL pass: the loss is not", "than 1e+300"],
                 marks=pytest.mark.long)])
def test_what_is_not_finite_is_told_with_epoch_step_and_cause_and_nothing_is_written(field, capsys, flags, told):
    before = {path: path.read_bytes() for path in baselines()}
    message = refused(capsys, *flags, "--save_every", "3600")
    assert message.startswith("error: epoch ") and " of fine-tuning, " in message and all(part in message for part in told)
    of_regions = {"selection.partial.t7"} if "hybrid+" in flags else set()  # regions and soft labels are as they are, at any rate
    assert not list(Path().rglob("results.csv")) and {path.name for path in Path("save").rglob("*.t7")} == of_regions
    finished = [path for path in baselines() if ".partial" not in path.name]
    assert {path: path.read_bytes() for path in finished} == before
    if "1e30" in flags:  # the state of an earlier step may have been kept
        assert refused(capsys, *flags, "--save_every", "3600") == message


def test_one_labelled_image_that_batch_norm_cannot_train_on_is_told(field, capsys):
    message = refused(capsys, "--solution", "random", "--no_replay", "--p_budget", "0.5")
    assert message.startswith("error: one labelled image alone cannot be trained on (") and "--p_budget" in message
    assert not list(Path("save").rglob("results.csv"))


@pytest.mark.parametrize("name, value, told", [
    ("linear.weight", np.nan, "linear.weight has values that are"), ("bn1.running_var", np.inf, "bn1.running_var has values that are"),
    ("linear.weight", 3e38, ": the logits or features of ")])
@pytest.mark.parametrize("entry", [repair, selection])
def test_a_model_whose_weights_or_logits_are_not_finite_is_named_before_anything_is_trained(field, capsys, name, value, told, entry):
    content = checkpoint.load(MODEL_FILE)
    content["net"][name].view(-1)[::2] = value
    checkpoint.save(MODEL_FILE, content)
    message = refused(capsys, "--solution", "random", entry=entry)
    assert message.startswith(f"error: checkpoint {MODEL_FILE}") and told in message and "not finite; " in message
    assert len(baselines()) == 1 and not list(Path().rglob("results.csv"))


def test_what_breaks_in_the_measurement_after_an_epoch_is_told_with_it(field, capsys, monkeypatch):
    genuine = hybridrepair.run.course.Course.measure

    def overflowing(training, model, record):
        if record["epoch"] == 2:
            model.linear.bias.data.fill_(np.inf)
        genuine(training, model, record)

    monkeypatch.setattr(hybridrepair.run.course.Course, "measure", overflowing)
    message = refused(capsys, "--solution", "random")
    assert "error: after epoch 2 of fine-tuning, the logits or features of 120 of 120 images are not finite; lower --" in message
    (state,) = Path("save").rglob("repair.partial.t7")
    assert checkpoint.load(state)["model"]["linear.bias"].isfinite().all() and not list(Path().rglob("results.csv"))
