"""settings.py: what tells two runs, and two fine-tuned starts, apart is exactly what can change their results."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import repair
import selection
from conftest import CALL, TINY, read_rows, write_tiny
from hybridrepair.annotation.questions import QUESTIONS
from hybridrepair.base import checkpoint, version
from hybridrepair.base.rows import write_rows
from hybridrepair.run.flags import repair_parser
from hybridrepair.run.output import Run
from hybridrepair.run.scenario import Scenario
from hybridrepair.training import baseline

FLAGS = [*CALL, "--dataset", "pets", "--p_budget", "20", "--tao", "0.2"]
CLASSES = ("cat", "dog")
EXTRACTOR = "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten())\n"


def image(path: str, seed: int) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def field(tmp_path, monkeypatch) -> Path:
    """The working directory: an image folder `pets`, a model under repair, what it was trained on, and two extractors."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path)
    for part, count in (("train", 6), ("val", 1), ("test", 2)):
        for number, name in enumerate(CLASSES):
            for i in range(count):
                image(f"data/pets/{part}/{name}/{i}.png", 100 * number + i)
    for i in range(10):
        image(f"data/pets/field/{i}.png", 200 + i)
    Path("data/pets/dataset.json").write_text(json.dumps({"size": 8}))
    Path("biased_dataset/0").mkdir(parents=True)
    np.save("biased_dataset/0/train.npy", np.arange(10))
    Path("net.py").write_text(EXTRACTOR)
    Path("moco.tar").write_bytes(b"read only by those that need its weights")
    write_rows(Path("answers.csv"), ("id", "label"), [{"id": f"field/{i}.png", "label": "cat"} for i in range(10)])
    return tmp_path


def identity(*flags: str) -> dict[str, str]:
    """What tells the run from others."""
    return Run(Scenario(repair.parse_args([*FLAGS, *flags]))).identity


def start(*flags: str) -> Path:
    """Where the fine-tuned start of the run is kept, whose name tells its settings."""
    models = Scenario(repair.parse_args([*FLAGS, *flags])).models
    return baseline.path_of(models.path, models.of_baseline)


def relabel(part: str) -> None:
    shutil.move(f"data/pets/{part}/cat/1.png", f"data/pets/{part}/dog/9.png")


def describe(**more) -> None:
    path = Path("data/pets/dataset.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def other_weights() -> None:
    weights = torch.load("tiny.pt")
    weights["4.bias"][0] += 1e-6
    torch.save(weights, "tiny.pt")


def append(path: str, text: str = "\n"):
    def change() -> None:
        with open(path, "a") as file:
            file.write(text)
    return change


def more_images() -> None:
    for i in range(20):
        image(f"data/pets/field/{10 + i}.png", 300 + i)


# what changes, whether the fine-tuned start is another one then, and flags before and after
INGREDIENTS = {
    "20 more images in field/": (more_images, False, []),
    "an image of the pool": (lambda: image("data/pets/field/3.png", 400), False, []),
    "an image of the train set": (lambda: image("data/pets/train/cat/0.png", 400), True, []),
    "a label of T2": (lambda: relabel("test"), False, []),
    "a label of the train set": (lambda: relabel("train"), True, []),
    "what is replayed": (lambda: np.save("biased_dataset/0/train.npy", np.arange(1, 11)), True, []),
    "mean": (lambda: describe(mean=[.4] * 3), True, []),
    "std": (lambda: describe(std=[.2] * 3), True, []),
    "the name of a class": (lambda: [Path("data/pets", part, "cat").rename(Path("data/pets", part, "bat")) for part in (
        "train", "val", "test")], False, []),
    "weights at the same path": (other_weights, True, []),
    "code that builds the model": (append("tiny.py"), True, []),
    "code that builds the extractor": (append("net.py"), False, ["--fe", "net.py:net"]),
    "weights of the extractor": (append("moco.tar"), False, ["--fe", "moco.tar"]),
    "answers": (append("answers.csv", "field/3.png,\n"), False, ["--labels", "answers.csv"]),
    "answers of an earlier round": (append("answers.csv", "field/3.png,\n"), False, ["--labelled", "answers.csv"]),
    "version": (lambda: setattr(version, "CODE", 2), True, [])}


@pytest.mark.parametrize("change, other_start, flags", INGREDIENTS.values(), ids=INGREDIENTS)
def test_what_a_result_is_made_of_tells_it_from_others(field, monkeypatch, change, other_start, flags):
    monkeypatch.setattr(version, "CODE", 1)  # which is put back
    before, first = identity(*flags), start(*flags)
    assert identity(*flags) == before
    change()
    assert identity(*flags) != before and (start(*flags) != first) == other_start


def test_another_folder_of_the_same_name_is_other_data_and_a_copy_is_not(field):
    shutil.copytree("data", "copy")
    assert identity("--data_path", "copy") == identity() and start("--data_path", "copy") == start()
    image("copy/pets/field/3.png", 400)
    assert identity("--data_path", "copy") != identity() and start("--data_path", "copy") == start()


def test_the_manifest_that_answers_belong_to_is_part_of_them(field):
    selection.main(selection.parse_args([*FLAGS, "--out", "ask"]))
    flags = ["--labels", "answers.csv", "--manifest", "ask/manifest.json"]
    Path("answers.csv").write_text("id,label\n" + "".join(f"{each['id']},cat\n" for each in read_rows(Path("ask", QUESTIONS))))
    before = identity(*flags)
    assert identity(*flags) == before
    append("ask/manifest.json")()
    assert identity(*flags) != before


OTHER = {  # flags that change a result; beside some, what they need to do so
    "--dataset": ["animals"], "--img_size": ["9"], "--model2test_arch": ["other.py:build"], "--feature_layer": ["2"],
    "--model2test_path": ["other.pt"], "--model_number": ["1"], "--solution": ["mcp"], "--p_budget": ["20.00001"],
    "--fe": ["net.py:net"], "--sel_l_data": [], "--sel_u_data": [], "--u_weight": [], "--disable_dynamic_u_weight": [],
    "--cluster": ["kmeans"], "--avg_clustersize": ["5"], "--cell_size": ["7"], "--eps": ["0.2", "--cluster", "dbscan"],
    "--min_samples": ["4"], "--exp": ["-1"], "--tao": ["0.3"], "--auto_tao": [], "--avg_tao": [], "--retrain_lr": ["0.00100000001"],
    "--distill_lr": ["0.04", "--solution", "hybrid+"],
    "--retrain_weightdecay": ["0"], "--retrain_epoch": ["2"], "--lam_ul": ["50"], "--estimated_statistics": [], "--no_replay": [],
    "--micro_batch": ["20"], "--manualSeed": ["11"], "--precision": ["bfloat16"], "--labels": ["answers.csv"],
    "--labelled": ["answers.csv"], "--allow_missing": []}
SAME = {  # and those that do not
    "--data_path": ["copy"], "--skip_bad": [], "--batch_size": ["7"], "--save_path": ["elsewhere"], "--force": [],
    "--save_every": ["1"], "--report_to": ["tensorboard"],
    "--step": ["1"], "--latent_space_plot": [], "--tcp": ["1"], "--device": ["cpu"], "--compile": [],
    "--num_workers": ["2"]}
STARTS = {"--img_size", "--model2test_path", "--retrain_lr", "--retrain_weightdecay", "--retrain_epoch", "--estimated_statistics",
          "--precision", "--micro_batch", "--no_replay"}


@pytest.fixture
def others(field) -> None:
    shutil.copytree("data/pets", "data/animals")
    shutil.copytree("data", "copy")
    shutil.copytree("biased_dataset/0", "biased_dataset/1")
    Path("other.py").write_text(TINY)
    shutil.copy("tiny.pt", "other.pt")
    torch.save({"net": torch.load("tiny.pt")}, "other.pt")


def test_every_flag_that_changes_a_result_tells_runs_apart_and_no_other_does(others):
    parser = repair_parser("")
    every = {action.option_strings[-1] for action in parser._actions} - {"--help", "--check", "--manifest"}  # another test has that
    assert OTHER.keys() | SAME.keys() == every
    for flag, value in SAME.items():
        assert identity(flag, *value) == identity() and start(flag, *value) == start(), flag
    for flag, value in OTHER.items():
        needed = value[1:]
        assert identity(flag, *value) != identity(*needed), flag
        assert (start(flag, *value) != start()) == (flag in STARTS), flag


def test_hybrid_plus_tells_its_own_settings_and_not_those_of_the_published_training(field):
    told = [each.partition("=")[0] for each in identity("--solution", "hybrid+")["settings"].split()]
    published = [each.partition("=")[0] for each in identity("--solution", "hybrid")["settings"].split()]
    assert set(told) - set(published) == {"distill_lr"}
    assert set(published) - set(told) == {"exp", "tao", "u_weight", "disable_dynamic_u_weight", "lam_ul"}
    assert "distill_lr" not in identity("--solution", "hybrid+", "--sel_l_data")["settings"]
    assert "fe=" in identity("--solution", "hybrid+", "--sel_u_data")["settings"]  # which its teacher reads
    assert "fe=" not in identity("--solution", "hybrid", "--sel_u_data")["settings"]


@pytest.mark.parametrize("flags", [["--eps", "0.2"], ["--tao", "0.3", "--auto_tao"], ["--cell_size", "7", "--cluster", "dbscan"],
                                   ["--micro_batch", "640"], ["--distill_lr", "0.04"],
                                   ["--micro_batch", "257", "--solution", "hybrid+"]])
def test_a_flag_that_has_no_effect_beside_others_makes_no_other_run(field, flags):
    assert identity(*flags) == identity(*flags[2:])


@pytest.mark.parametrize("cluster, said", [("hybrid", ["cell_size=7", "noise=cells"]), ("hdbscan", ["cell_size=7", "noise=cells"]),
                                           ("kmeans", ["cell_size=7"]), ("dbscan", [])])
def test_noise_that_is_sought_in_cells_is_told_from_that_of_runs_before_it_was(field, cluster, said):
    settings, without = (identity(*flags, "--cluster", cluster)["settings"].split() for flags in (["--cell_size", "7"], []))
    assert sorted(set(settings) - set(without)) == said


def test_settings_of_version_1_are_those_of_runs_before_it(field):
    assert "code" not in identity()["settings"]


def test_a_row_and_a_start_of_another_version_are_made_again_and_those_of_this_one_are_used(field, unpainted, monkeypatch, capsys):
    flags = ["--solution", "random", "--save_path", "out", "--labels", "answers.csv"]

    def repaired() -> tuple[bool, int, int]:
        """Whether it was done already, and the numbers of rows and of starts."""
        repair.main(repair.parse_args([*FLAGS, *flags]))
        done = "done already" in capsys.readouterr().out
        return done, len(read_rows(Path("out/results.csv"))), len([*Path().glob("*_finetuned_*.t7")])

    assert repaired() == (False, 1, 1) and repaired() == (True, 1, 1)
    monkeypatch.setattr(version, "CODE", 2)
    assert repaired() == (False, 2, 2) and repaired() == (True, 2, 2)
    flags += ["--manualSeed", "11"]
    (newer,) = {path for path in Path().glob("*_finetuned_*.t7") if checkpoint.load(path)["settings"].get("code") == 2}
    monkeypatch.setattr(baseline, "train_on", lambda *given: pytest.fail(f"{newer} was not used"))
    assert repaired() == (False, 3, 2)
