"""page.py: what report.html says, against numbers counted by hand, and that it is one well-formed file for whatever a run is."""
import base64
import io
import json
import os
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import tables
from hybridrepair.base import errors
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.report import evidence, page
from hybridrepair.report.evidence import Evidence
from hybridrepair.report.page import contents, render

INLINE = {"strong", "em", "span", "code", "a"}
VOID = {"meta", "img", "br", "source", "link", "input", "hr"}


class Page(HTMLParser):
    """The structure of a page: elements with attributes, headings with texts, all text; an element that is not closed is an error."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.headings: list[tuple[int, str]] = []
        self.text, self.open = "", []  # type: ignore[var-annotated]
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.text += "" if tag in INLINE else " "
        if tag not in VOID:
            self.open.append(tag)
        if tag[0] == "h" and tag[1:].isdigit():
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1][0] == "h" and self.open[-1][1:].isdigit():
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.elements if name == tag]


def record(solution: str = "hybrid", **result) -> dict:
    epochs = [{"epoch": each, "acc": 50 + each, "loss": 1 / each, "ssl_loss": 2.5, "unsmoothness": 3.0, "seconds": 0.5,
               "seconds_measure": 0.1} for each in (1, 2)]
    return {"args": {"dataset": "pets", "model2test_arch": "MobileNet", "model_number": 0, "solution": solution, "labels": None},
            "settings": {"retrain_lr": 0.001}, "epochs": epochs, "finished": "2026-01-01", "device": "cpu", "versions": "torch 2",
            "peak_memory_bytes": 2e9, "command": ["repair.py", "--dataset", "pets"],
            "result": {"acc_raw": 60.0, "acc_before": 40.0, "judged_on": "T2", "n_unlabelled": 1, "tau": 0.25,
                       "seconds_total": 9.0} | result}


def seen(classes: list[str] = ["cat", "dog", "owl"], size: int = 8, t2: bool = True, truth: bool = True, regions: bool = True,  # noqa: B006
         annotated: bool = True) -> Evidence:
    """T2 of 10 images: 4 right before, 7 after, 4 fixed, 1 broken. A pool of 6: image 10 is annotated, 11 to 13 take its label 0."""
    n, none = len(classes), np.empty(0, np.int64)
    t2_truth = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1]) % n
    before = np.where(np.isin(np.arange(10), [0, 1, 5, 6]), t2_truth, (t2_truth + 1) % n)
    after = np.where(np.isin(np.arange(10), [0, 2, 3, 4, 5, 6, 7]), t2_truth, (t2_truth + 1) % n)
    pool_truth = np.array([0, 0, 1, UNKNOWN, 1, 1]) if truth else np.full(6, UNKNOWN)
    source = np.array([0, 0, 0, 0, UNKNOWN, UNKNOWN]) if regions else np.array([0, *[UNKNOWN] * 5])
    chosen = np.array([0]) if annotated else none
    made = Evidence(np.array(classes), np.arange(10) if t2 else none, t2_truth if t2 else none, before if t2 else none,
                    after if t2 else none, np.arange(10, 16), pool_truth, np.array([1, 0, 0, 0, 1, 1]), np.linspace(.5, 1, 6),
                    source if annotated else np.full(6, UNKNOWN), chosen, np.array([3] if regions else [-1])[:len(chosen)],
                    np.zeros(len(chosen), np.int64), none, np.empty(0, str), np.empty((0, 1, 1, 3), np.uint8))
    index = np.unique(np.fromiter(made.shown(), np.int64))
    noise = np.random.default_rng(0).integers(0, 256, (len(index), size, size, 3), np.uint8)
    made.tile_index, made.tile_file = index, np.array(["field/<b>.png"] * len(index), str)
    made.tiles = np.array([evidence.thumbnail(each) for each in noise]).reshape(len(index), *evidence.thumbnail(
        np.zeros((size, size, 3), np.uint8)).shape)
    return made


def html(run: dict | None = None, evidence: Evidence | None = None) -> str:
    return render(contents(run or record(), evidence or seen(), Path("save/pets_MobileNet/0_hybrid_1_10_ab")))


@cache
def usual() -> str:
    """The page of a run with regions."""
    return html()


def words(page: str) -> str:
    """The text of a page, in single spaces."""
    return " ".join(Page(page).text.split())


CASES = {
    "regions": usual, "without T2": lambda: html(record(acc_before=None, acc_raw=None, judged_on=""), seen(t2=False)),
    "without truth in the pool": lambda: html(None, seen(truth=False)),
    "unlabelled alone": lambda: html(record(tau=None), seen(annotated=False)),
    "a baseline": lambda: html(record("mcp", n_unlabelled=0), seen(regions=False)),
    "signs in names": lambda: html(None, seen(["<script>alert(1)</script>", "$x$ & \"y\"", "größe\udcff\x01"])),
    "43 classes": lambda: html(None, seen([f"class {each}" for each in range(43)])),
    "512 pixels": lambda: html(None, seen(size=512))}


@pytest.fixture(scope="module", params=CASES)
def case(request) -> str:
    return CASES[request.param]()


# --- one file, for everyone

def test_a_page_needs_no_other_file_and_runs_nothing(case):
    made = Page(case)
    for tag, attrs in made.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "srcset"):
            assert attrs.get(name, "data:image/").startswith("data:image/")
        assert attrs.get("href", "#").startswith("#")
    assert "url(" not in case and "@import" not in case and "http://" not in case and "https://" not in case


def test_a_page_can_be_read_by_keyboard_and_screen_reader(case):
    made = Page(case)
    levels = [level for level, _ in made.headings]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:]))
    assert all(text.strip() for _, text in made.headings)
    assert made.all("html")[0]["lang"] == "en" and "color-scheme" in {each.get("name") for each in made.all("meta")}
    assert all(len(made.all(tag)) == 1 for tag in ("title", "header", "nav", "main", "footer"))
    assert made.all("a")[0]["href"] == "#main" and made.all("main")[0]["id"] == "main"
    ids = [attrs["id"] for _, attrs in made.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {attrs["href"][1:] for attrs in made.all("a")} <= set(ids)
    assert all(attrs["alt"].strip() for attrs in made.all("img"))
    assert len(made.all("caption")) == len(made.all("table")) and {attrs["scope"] for attrs in made.all("th")} <= {"col", "row"}
    assert len(made.all("summary")) == len(made.all("details"))


def test_images_are_images_and_charts_are_there_in_two_themes(case):
    made = Page(case)
    for attrs in made.all("img") + [{"src": each["srcset"]} for each in made.all("source")]:
        kind, _, data = attrs["src"].partition(";base64,")
        content = base64.b64decode(data)
        if kind == "data:image/svg+xml":
            assert ElementTree.fromstring(content).tag.endswith("svg")
        else:
            with Image.open(io.BytesIO(content)) as image:
                assert kind == f"data:image/{(image.format or '').lower()}" and max(image.size) <= evidence.TILE
    charts = [attrs for attrs in made.all("img") if attrs.get("class") == "chart"]
    assert len(charts) == len(made.all("source")) >= 3 and all("table below" in attrs["alt"] for attrs in charts)


# --- what it says

def test_the_result_is_told_with_intervals():
    said = words(usual())
    assert "T2 40.00 % → 70.00 %" in said
    # 4 and 7 of 10, by Wilson's formula; (4 - 1) / 10, by 3 / 12 -+ 1.96 sqrt((6 / 12 - 9 / 144) / 12)
    assert "before repair 4 40.00 16.8 to 68.7" in said and "after repair 7 70.00 39.7 to 89.2" in said
    assert "+30.00 points, with a 95 % confidence interval of −12.4 to +62.4" in said and "cannot be told from no change" in said
    assert "as it came 6 60.00" in said
    assert "4 fixed and 1 broken" in said and "Fixed: 4 of 4" in said and "Broken: 1 of 1" in said


def test_each_class_is_told_with_intervals():
    t2 = page.judged_part(record(), seen())
    assert t2
    assert [(each["name"], each["n"], each["before"]["right"], each["after"]["right"], each["fixed"], each["broken"])
            for each in t2["classes"]] == [("cat", 5, 2, 4, 3, 1), ("dog", 5, 2, 3, 1, 0)]
    # 2 / 7 -+ 1.96 sqrt((5 / 7 - 4 / 49) / 7)
    assert (t2["classes"][0]["low"], t2["classes"][0]["high"]) == pytest.approx((-30.35, 87.49), abs=0.01)
    assert "cat 5 40.0 12 to 77 80.0 38 to 96 +40.0 −30.4 to +87.5 3 1" in words(usual())


@pytest.mark.parametrize("change, said", [(1, "the repair made the model better"), (-1, "the repair made the model worse")])
def test_a_clear_change_is_called_one(change, said):
    wide = seen()
    for name in ("judged_index", "truth", "before", "after"):
        setattr(wide, name, np.tile(getattr(wide, name), 10))  # 100 images
    if change < 0:
        wide.before, wide.after = wide.after, wide.before
        wide.tile_index = np.arange(16)
        wide.tiles, wide.tile_file = np.zeros((16, 8, 8, 3), np.uint8), np.array([""] * 16)
    assert said in words(html(None, wide))


def test_regions_say_what_was_labelled_and_how_many_members_are_of_that_class():
    made = contents(record(), seen(), Path("run"))
    (region,) = made["regions"]
    assert (region["number"], region["size"], region["label"], region["predicted"], region["judged"], region["right"]) == (
        3, 4, "cat", "dog", 2, 1)
    assert [(each["index"], each["wrong"]) for each in region["members"]] == [(13, False), (12, True), (11, False)]
    assert region["total"] == pytest.approx(.5 + .6 + .7 + .8)
    said = words(usual())
    assert "1. Region 3: labelled “cat”" in said and "wrong label: is dog" in said
    assert "Of 2 images that took a label and whose class is known, 1 (50.00 %) took the right one; of 1 more" in said
    assert "It got 1 of 1 annotated images wrong (100.0 %)" in said and "up to 0.2500 (tau)" in said


def test_purity_is_not_told_where_labels_are_not_known():
    said = words(html(None, seen(truth=False)))
    assert "cannot be told, since the pool has no labels of its own" in said and "wrong label" not in said
    assert "took the right one" not in said and "members whose class is known" not in said


def test_what_a_run_does_not_have_is_said():
    said = words(html(record(acc_before=None, acc_raw=None, judged_on=""), seen(t2=False)))
    assert "There are no labelled images to judge by in this run" in said and "points, with a 95" not in said
    assert said.count("Without labelled images to judge by, this cannot be told.") == 2
    said = words(html(record(tau=None), seen(annotated=False)))
    assert "Nothing was annotated in this run" in said and "No image took the label of another one." in said
    said = words(html(record("mcp", n_unlabelled=0), seen(regions=False)))
    assert "chose images one by one" in said and "Multiple-boundary clustering" in said and "labelled cat wrongly predicted dog" in said


def test_a_run_that_is_judged_on_val_says_so_and_names_no_t2():
    said = words(html(record(judged_on="val"), seen()))
    assert "val 40.00 % → 70.00 %" in said and "images like those that it was first trained on" in said
    assert "val images fixed" in said and said.count("T2") == 1  # that there is none


def test_before_repair_is_explained_where_it_is_another_model_alone():
    own = record()
    own["args"]["no_replay"] = True
    assert "further training on its own train set" in words(usual())
    assert "further training on its own train set" not in words(html(own))


def test_names_are_shown_as_they_are():
    made = html(None, seen(["<script>alert(1)</script>", "$x$ & \"y\"", "größe\udcff\x01"]))
    assert "<script" not in made and "<b>" not in made
    assert "<script>alert(1)</script>" in Page(made).text and "$x$ & \"y\"" in Page(made).text
    made.encode("utf-8")


def test_the_size_is_bounded_with_many_classes_and_large_images():
    many = seen([f"a class with the rather long name {each}" for each in range(1000)], size=512)
    big, n = np.arange(4000), 4000
    many.judged_index, many.truth, many.before, many.after = big, big % 1000, big % 1000, (big + big // 2000) % 1000
    many.pool_index = np.arange(n, n + 1000)
    many.pool_truth, many.predicted, many.unsmoothness = np.arange(1000) % 7, np.zeros(1000, np.int64), np.linspace(0, 1, 1000)
    many.annotated, many.region, many.answers = np.arange(0, 1000, 10), np.arange(100), np.zeros(100, np.int64)
    many.source = np.arange(1000) // 10 * 10
    many.tile_index = np.unique(np.fromiter(many.shown(), np.int64))
    assert len(many.tile_index) == evidence.REGIONS * (evidence.MEMBERS + 1) + evidence.CHANGED
    many.tile_file = np.array(["f"] * len(many.tile_index))
    many.tiles = np.random.default_rng(0).integers(0, 256, (len(many.tile_index), 96, 96, 3), np.uint8)  # the worst to compress
    made = html(None, many)
    assert len(made) < 3e6 and "All 1000 classes" in made and "the 40 of 1000 that changed most" in words(made)


def test_numbers_of_epochs_are_a_table_and_only_those_that_are_there():
    made = page.epochs_part(record())
    assert made["columns"] == ["accuracy, %", "loss", "SSL loss", "unsmoothness of the pool", "seconds"]
    assert made["rows"] == [(1, [51, 1.0, 2.5, 3.0, 0.5]), (2, [52, 0.5, 2.5, 3.0, 0.5])]
    assert [each["title"] for each in made["charts"]] == ["T2 accuracy while fine-tuning", "Loss on labelled images",
                                                          "Loss of semi-supervised training", "Unsmoothness of the pool"]
    bare = record("mcp") | {"epochs": [{"epoch": 1, "acc": 51, "loss": 1.0, "ssl_loss": None}]}
    assert page.epochs_part(bare)["columns"] == ["accuracy, %", "loss"]


@pytest.mark.parametrize("value, text", [(1.234, "+1.23"), (-1.5, "−1.50"), (-0.001, "+0.00"), (0.0, "+0.00")])
def test_a_change_has_its_sign(value, text):
    assert page.signed(value) == text


def test_what_is_one_is_told_as_one_and_what_is_known_from_earlier_rounds_too():
    said = words(html(record(n_known=5), seen()))
    assert ("1 image of the 6 from the field, the pool, was annotated, 5 labels were known from earlier rounds, 3 images that look "
            "alike took its label, 1 other was used without a label, and the model was trained further for 2 epochs.") in said
    assert "This is the first of them." in said


def test_a_long_name_is_cut_under_a_thumbnail_alone():
    name = "a name of a class that goes on and on"
    said = words(html(None, seen([name, "dog"])))
    assert f"labelled “{name}”" in said and f"is {name[:31]}… before dog" in said


def test_a_model_of_the_users_is_no_model_a():
    own = record()
    own["args"]["model2test_path"] = "mine.t7"
    assert page.run_part(own, seen(), Path("run"))["variant"] == "" and page.run_part(record(), seen(), Path("run"))["variant"] == "A"


# --- files

@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder of a run, without a report."""
    folder = tmp_path / "save" / "pets_MobileNet" / "0_hybrid_1_10_ab"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record()))
    evidence.save(folder / "predictions.npz", seen())
    return folder


def test_the_report_is_made_again_from_the_folder_alone_and_is_the_same(folder, tmp_path, capsys):
    first = page.write(folder).read_bytes()
    (folder / "report.html").unlink()
    tables.main(tables.parse_args(["--report", str(tmp_path / "save")]))
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert (folder / "report.html").read_bytes() == first


def test_a_folder_whose_name_is_not_utf_8_has_its_report(folder, capfd):
    other = folder.rename(folder.with_name(os.fsdecode(b"r\xe9sum\xe9")))
    tables.main(tables.parse_args(["--report", str(other)]))
    assert capfd.readouterr().out.endswith("r\\udce9sum\\udce9/report.html\n")
    assert r"r\udce9sum\udce9" in (other / "report.html").read_text(encoding="utf-8")


def test_numbers_that_were_not_measured_are_not_told(folder):
    (folder / "run.json").write_text(json.dumps(record(acc_raw=float("nan"), acc_before=float("nan"), judged_on="")))
    evidence.save(folder / "predictions.npz", seen(t2=False))
    said = words(page.write(folder).read_text())
    assert " nan" not in said and "T2 accuracy while fine-tuning" not in said


def test_plots_are_made_again_with_the_report(folder, tmp_path):
    evidence.save(folder / "predictions.npz", replace(seen(), sizes=np.array([2, 5, 1, 4])))
    (folder / "accuracy.png").write_bytes(b"damaged")
    tables.main(tables.parse_args(["--report", str(folder)]))
    assert {path.name for path in folder.glob("*.png")} == {"accuracy.png", "per_class.png", "region_sizes.png", "unsmoothness.png"}
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_that_fails_leaves_what_was_there(folder):
    (folder / "report.html").write_text("old")
    (folder / "predictions.npz").write_bytes(b"")
    with pytest.raises(errors.UserError):
        page.write(folder)
    assert (folder / "report.html").read_text() == "old"


@pytest.mark.parametrize("broken, part", [
    ("run.json", "run.json cannot be read"), ("predictions.npz", "predictions.npz cannot be read"), ("", "there is no run in")])
def test_a_folder_that_no_report_can_be_made_of_is_named(folder, capsys, broken, part):
    if broken:
        (folder / broken).write_bytes(b"{")
    else:
        (folder / "run.json").unlink()
    with pytest.raises(SystemExit) as stop:
        errors.run(tables.main, tables.parse_args(["--report", str(folder)]))
    message = capsys.readouterr().err
    assert stop.value.code == 2 and part in message and message.count("\n") == 1
