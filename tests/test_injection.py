"""Names that users, files and folders bring never reach a shell, a format string, a page or table unescaped, or a place elsewhere."""
import csv
import io
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageFont

import tables
from conftest import arrays, field_of, read_rows, refusal
from hybridrepair.annotation import contact_sheet, label_studio, questions, sorted_images, spreadsheet
from hybridrepair.annotation.manifest import Manifest, Origin, manifest_of
from hybridrepair.annotation.oracle import answered, labels_of
from hybridrepair.annotation.spreadsheet import protected
from hybridrepair.base.errors import UserError
from hybridrepair.base.files import write_json
from hybridrepair.base.rows import write_rows
from hybridrepair.images import data
from hybridrepair.report import charts, evidence, page, plots
from hybridrepair.run import output
from hybridrepair.run.table import COLUMNS
from hybridrepair.selection.clustering import NOISE
from hybridrepair.selection.solutions import Selection

ROOT = Path(__file__).parents[1]
NAMES = ("; rm -rf x", "$(touch x)", "`touch x`", "../../x", "..", "/etc/x", "<script>alert(1)</script>", '"><img src=x onerror=y>',
         '=HYPERLINK("http://x")', "+1", "@SUM(A1)", "-2+3", "\uff1dA1", "%s{0}", "{0.__class__}", "a\nb", "=a\rb", "a,b;c\td",
         "\u202egnp.exe", "$x_{$", r"\input{x}", "a|b", "'", "001", "\x02b\x03", "&amp;")


def is_safe(text: str) -> bool:
    """Whether a spreadsheet leaves a cell alone."""
    return not text or text[0] not in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"


# --- files for annotators

def test_folders_of_classes_stay_in_their_folder_and_tell_the_classes_again(tmp_path):
    dataset = field_of(tmp_path / "data", len(NAMES), NAMES)
    folder = tmp_path / "out" / "folders"
    contents = [Path(dataset.file(place)).read_bytes() for place in range(len(NAMES))]
    sorted_images.write(folder, [*NAMES], ((f"{number}.png", number, content) for number, content in enumerate(contents)))
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")} == {"data", "out"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["folders"]
    assert sorted(path.name for path in folder.rglob("*.png")) == sorted(f"{number}.png" for number in range(len(NAMES)))
    assert all(len(path.relative_to(folder).parts) == 2 for path in folder.rglob("*.png"))
    assert labels_of(dataset, folder).tolist() == [*range(len(NAMES))]


def test_the_configuration_of_label_studio_offers_each_name_or_refuses_it():
    names = [name for name in NAMES if not label_studio.CONTROL.search(name)]
    assert [each.get("value") for each in ElementTree.fromstring(label_studio.config(names)).iter("Choice")] == names
    assert len(names) == len(NAMES) - 1 and "control sign" in refusal(label_studio.config, NAMES)


@pytest.mark.parametrize("form", ["to_label.csv", "tasks.json"])
def test_answers_that_are_filled_in_are_those_of_the_names(tmp_path, form):
    """Files, classes and answers of the nastiest names: what is written is safe in a spreadsheet, and comes back."""
    names = [name for name in NAMES if not label_studio.CONTROL.search(name)]
    files = [f"field/{name.replace('/', '_')}.png" for name in names]
    dataset = field_of(tmp_path / "data", len(names), tuple(names))
    for place, file in enumerate(files):
        os.rename(dataset.file(place), dataset.folder / file)
    dataset = SimpleNamespace(**vars(dataset) | {"files": tuple(files), "file": lambda place: str(dataset.folder / files[place])})
    chosen = Selection(np.arange(len(names)), np.full(len(names), NOISE), np.arange(len(names)), None)
    made = manifest_of(dataset, chosen, Origin({"file": "", "digest": ""}, names, {"n": 1, "digest": ""}, {}))
    made.write(tmp_path / "manifest.json")
    pool = SimpleNamespace(dataset=dataset, pool_index=np.arange(len(names)), looked_at_views=False)
    rows = questions.rows_of(pool, chosen, made, names)  # type: ignore[arg-type]
    if form == "to_label.csv":
        write_rows(tmp_path / form, questions.COLUMNS, [row | {"label": protected(name)} for row, name in zip(rows, names)])
        with open(tmp_path / form, newline="", encoding="utf-8") as file:
            assert all(is_safe(cell) for row in csv.reader(file) for cell in row)
        assert [row["predicted class"] for _, row in spreadsheet.read(tmp_path / form, "labels file")] == names
    else:
        tasks = [label_studio.task(image, "images/1.png", {}, name, .5, "m") | {"annotations": [
            {"result": [{"from_name": "label", "value": {"choices": [name]}}]}]} for image, name in zip(made.images, names)]
        (tmp_path / form).write_text(questions.json.dumps(tasks))
    assert answered(dataset, tmp_path / form, Manifest.read(tmp_path / "manifest.json"))[0].tolist() == [*range(len(names))]


def test_members_of_regions_are_safe_in_a_spreadsheet(tmp_path):
    dataset = SimpleNamespace(files=tuple(NAMES), folder=tmp_path, images=np.zeros((len(NAMES), 8, 8, 3), np.uint8), split={
        "pool": np.arange(len(NAMES))})
    chosen = Selection(np.array([0]), np.array([0]), np.zeros(len(NAMES), np.int64), None)
    made = manifest_of(dataset, chosen, Origin({}, [], {}, {}))  # type: ignore[arg-type]
    write_rows(tmp_path / "regions.csv", ("id", "digest", "region", "representative", "is representative"), questions.members_of(made))
    with open(tmp_path / "regions.csv", newline="", encoding="utf-8") as file:
        assert all(is_safe(cell) for row in csv.reader(file) for cell in row)
    assert {row["id"] for _, row in spreadsheet.read(tmp_path / "regions.csv", "regions")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_line_of_a_contact_sheet_is_one_line(name):
    assert contact_sheet.fitting(f"1 {name}", ImageFont.load_default()).isprintable()  # type: ignore[arg-type]


# --- results

def row(dataset: str, model: str, seed: int = 1) -> dict:
    return {"dataset": protected(dataset), "model": protected(model), "model_number": 0, "solution": "gini", "p_budget": 1,
            "seed": seed, "settings": "retrain_lr=0.001", "n_annotated": 8, "n_propagated": 0, "n_unlabelled": 0, "acc_before": 80,
            "acc_after": 81, "acc_best": 99, "fixed": 3, "broken": 1, "judged_on": "T2"}


def test_the_row_of_a_run_is_safe_in_a_spreadsheet_and_found_again(tmp_path):
    for name in NAMES:
        args = SimpleNamespace(dataset=name, model2test_arch="MobileNet", model_number=0, solution="hybrid", p_budget=1.0,
                               save_path=tmp_path, manualSeed=1)
        task = SimpleNamespace(args=args, settings={"retrain_lr": 0.001}, checkpoint_path=Path("model.t7"))
        run = output.Run(task)  # type: ignore[arg-type]
        write_json(run.folder / "run.json", {"args": vars(args) | {"save_path": ""}, "settings": task.settings,
                                             "result": {"acc_after": 81}})
        run.enter()
        assert run.folder.parent == tmp_path
        for _ in ("in its folder", "in the table"):
            found = run.find()
            assert found and found["acc_after"] == "81" and found["dataset"] == name
            (run.folder / "run.json").unlink(missing_ok=True)
    with open(tmp_path / "results.csv", newline="", encoding="utf-8") as file:
        assert all(is_safe(cell) for cells in csv.reader(file) for cell in cells)
    assert len(read_rows(tmp_path / "results.csv")) == len(NAMES)


@pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
def test_a_table_has_a_line_for_each_name_in_which_nothing_is_markup(tmp_path, capsys, form):
    write_rows(tmp_path / "results.csv", COLUMNS, [row(name, name) for name in NAMES])
    tables.main(tables.parse_args([str(tmp_path / "results.csv"), "--format", form, "--rows", "dataset", "--columns", "p_budget"]))
    text = capsys.readouterr().out
    assert all(line.isprintable() or form == "csv" for line in text.split("\n"))
    if form == "csv":
        (tmp_path / "table.csv").write_text(text)
        cells = [cell for cells in csv.reader(io.StringIO(text)) for cell in cells]
        assert all(is_safe(cell) or re.fullmatch(r"-\d[\d.]*", cell) for cell in cells)
        read = {each["dataset"] for _, each in spreadsheet.read(tmp_path / "table.csv", "table")}
        assert {name for name in NAMES if name.isprintable()} <= read and len(read) == len(NAMES)
    elif form == "markdown":
        table = text.rsplit("\n\n", 1)[0].splitlines()
        assert len(table) == 2 + 2 * len(NAMES) and all(len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", table[0]))
                                                        for line in table)
        assert not re.search(r"(?<!\\)<", text)
    else:
        assert not re.search(r"\\input|(?<!\\)\$\(|(?<!\\)&amp", text)


def test_a_plot_takes_names_as_they_are(tmp_path):
    named = [row(name, "MobileNet") for name in ("$x_{$", "a$b$c", r"\frac")]  # matplotlib reads mathematics between two $
    named += [named[0] | {"settings": f"{named[0]['settings']} fe=$x_{{$ number={number}"} for number in (1, 2)]
    write_rows(tmp_path / "results.csv", COLUMNS, named)
    files = [str(tmp_path / name) for name in ("results.csv", "table.md", "p.png")]
    tables.main(tables.parse_args([files[0], "--output", files[1], "--plot", files[2]]))
    with Image.open(tmp_path / "p.png") as image:
        assert image.format == "PNG"


@pytest.mark.filterwarnings("ignore:Glyph")
def test_plots_and_charts_of_classes_take_names_as_they_are(tmp_path):
    zero = np.zeros(len(NAMES), np.int64)
    plots.save(tmp_path / "a.png", plots.class_shares([*NAMES], {"train": zero, "val": zero}))
    chart = charts.themed(lambda: charts.changes("T2", [page.plain(name) for name in NAMES], *[zero.tolist()] * 3))
    svg = page.base64.b64decode(chart["light"].partition(",")[2]).decode()
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
    assert "<script" not in svg and ElementTree.fromstring(svg).tag.endswith("svg")


class Tags(HTMLParser):
    """The elements of a page and the names of their attributes."""
    def __init__(self, html: str):
        super().__init__()
        self.found: set[tuple[str, str]] = set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found |= {(tag, name) for name, _ in attrs} | {(tag, "")}


def test_a_report_has_no_element_that_a_name_brings(tmp_path):
    def html(names: tuple[str, ...]) -> str:
        n = len(names)
        none = np.empty(0, np.int64)
        made = evidence.Evidence(
            np.array(names), np.arange(n), np.arange(n), np.arange(n)[::-1], np.arange(n), np.arange(n, 2 * n), np.arange(n),
            np.arange(n)[::-1], np.linspace(.5, 1, n), np.zeros(n, np.int64), np.array([0]), np.array([0]), np.array([0]), none,
            np.empty(0, str), np.empty((0, 1, 1, 3), np.uint8))
        made.tile_index = np.unique(np.fromiter(made.shown(), np.int64))
        made.tile_file = np.array([names[each % n] for each in made.tile_index])
        made.tiles = np.zeros((len(made.tile_index), 8, 8, 3), np.uint8)
        text = names[0]
        record = {"args": {"dataset": text, "model2test_arch": text, "model_number": 0, "solution": "hybrid", text: text},
                  "settings": {text: text}, "epochs": [], "finished": text, "device": text, "versions": text, "command": [text],
                  "result": {"acc_raw": 60.0, "acc_before": 40.0, "judged_on": "T2"}}
        return page.render(page.contents(record, made, tmp_path / "run"))

    usual = Tags(html(tuple(f"c{number}" for number in range(len(NAMES))))).found
    assert Tags(html(('"><img src=x onerror=y><script>alert(1)</script>', *NAMES[1:]))).found == usual


# --- the command line

@pytest.mark.parametrize("name", ["../x", "..", "", "a/b", "/etc", ".", "; rm -rf x", "$(touch x)"])
def test_the_name_of_a_dataset_leads_to_no_other_place(tmp_path, name):
    (tmp_path / "x").mkdir()
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    assert "is unknown" in refusal(data.load, name, tmp_path / "root")


@pytest.mark.parametrize("file", ["/etc/passwd", "../../secret.png", "field/../../x.png"])
def test_files_of_a_dataset_lie_in_its_folder(tmp_path, file):
    arrays(tmp_path / "pets", 2, description={"split": {"pool": [0, 2]}, "classes": ["a", "b"], "files": [file, "field/a.png"]})
    assert "dataset.json: files is" in refusal(data.load, "pets", tmp_path)


@pytest.mark.parametrize("script", ["repair.sh", "baseline.sh", "train.sh"])
@pytest.mark.parametrize("name", ["x; touch y", "$(touch y)", "`touch y`", "a' b\" c", "*", "../x", "-n", r"a\nb"])
def test_scripts_pass_a_name_on_as_one_word_and_run_nothing_of_it(tmp_path, script, name):
    for file in ("repair.sh", "baseline.sh", "grid.sh", "train.sh", "setup.sh"):
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor word; do printf "%s\\n" "<$word>"; done\n')
    python.chmod(0o755)
    variables = {"PATH": os.environ["PATH"], "PYTHON": str(python), "DATASET": name, "DATA_ROOT": name, "FE": name, "CLUSTER": name,
                 "MODEL": "*" if name == "*" else "MobileNet"}
    before = sorted(path.name for path in tmp_path.iterdir())
    done = subprocess.run(["sh", script, "--save_path", name], cwd=tmp_path, env=variables, capture_output=True, text=True)
    words = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == "" and sorted(path.name for path in tmp_path.iterdir()) == before
    given = [after for flag, after in zip(words, words[1:])
             if flag in ("<--dataset>", "<--data_path>", "<--data_root>", "<--fe>", "<--cluster>", "<--save_path>")]
    assert len(given) >= 3 and set(given) == {f"<{name}>"}


def test_a_message_is_one_line_that_shows_all_its_signs_whatever_is_in_a_name():
    message = str(UserError(f"image {'a' + chr(10) + 'b' + chr(27) + '[2J' + chr(0x202e)} is wrong; give {{0}} %s"))
    assert message == r"image a\nb\x1b[2J\u202e is wrong; give {0} %s"
    assert len(str(UserError("x" * 10 ** 6))) < 20_000
