"""A repair of images in folders."""
import os
from pathlib import Path

import numpy as np
from PIL import Image

import repair
import train_classifier
from conftest import read_rows
from hybridrepair.base import errors
from hybridrepair.base.text import text_of
from small import folder_of, rows


def test_a_folder_whose_names_are_hardly_text_is_repaired(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    classes = ["a$b^$ ", os.fsdecode(b"caf\xe9")]
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 8), ("test", 8), ("field", 40)):
        for i in range(count):
            path = Path("data/pets", part, *([classes[i % 2]] if part != "field" or i < 30 else []), f"{i}{classes[i % 2]}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 120, (9, 12, 3), dtype=np.uint8)
            noise[..., i % 2] += 100
            Image.fromarray(noise).save(path)
    Path("data/pets/field/damaged.gif").write_text("no image")
    flags = ["--dataset", "pets", "--img_size", "16", "--device", "cpu"]
    train_classifier.main(train_classifier.parse_args([*flags, "--data_root", "data", "--n_epochs", "1", "--skip_bad"]))
    args = repair.parse_args([*flags, "--data_path", "data", "--fe", "model2test", "--p_budget", "50", "--retrain_epoch", "1",
                              "--solution", "random", "--labels", "labels.csv"])
    # annotators see a name without its space, and what is not UTF-8 escaped
    answers = "".join(f"{index},{('a$b^$', text_of(classes[1]))[index % 2]}\n" for index in range(40, 80))
    Path("labels.csv").write_text("index,label\n" + answers)
    errors.run(repair.main, args)
    (row,) = rows("save/pets_MobileNet")
    folder = folder_of(row, "save/pets_MobileNet")
    selected = read_rows(folder / "selected.csv")
    assert len(selected) == 20 and {each["label"] for each in selected} == {"a$b^$", text_of(classes[1])}
    assert any(each["file"].endswith(r"caf\udce9.png") for each in selected)
    assert "img_size=16" in row["settings"] and (folder / "per_class.png").is_file()
    assert text_of(classes[1]) in (folder / "report.html").read_text(encoding="utf-8")
