"""report.html of a run, for whoever was not there: one file without scripts, made of run.json and predictions.npz.

`contents` computes what the page says as plain values, templates/report.html says it.
"""
import base64
import inspect
import io
import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.files import atomic
from hybridrepair.base.text import text_of
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.report import charts, evidence, plots
from hybridrepair.report.evidence import Evidence
from hybridrepair.report.intervals import paired, wilson
from hybridrepair.selection.solutions import SOLUTIONS

FILE, RECORD, PREDICTIONS = "report.html", "run.json", "predictions.npz"
CLASSES = 40  # classes shown at most before the reader opens the rest
NAME = 32  # signs of a class's name under a thumbnail at most
LOSSLESS = 32  # pixels up to which a thumbnail is a PNG
EPOCH_COLUMNS = {"acc": "accuracy, %", "loss": "loss", "ssl_loss": "SSL loss", "unsmoothness": "unsmoothness of the pool",
                 "guess_acc_trusted": "guesses right, trusted, %", "guess_acc_propagated": "guesses right, propagated, %",
                 "seconds": "seconds"}


def write(folder: Path, seen: Evidence | None = None) -> Path:
    """Write the report of the run in `folder`, from its evidence where that is given, and return its path.

    UserError where the folder lacks what it is made of, or what lies there is damaged.
    """
    path = folder / FILE
    with nullcontext() if seen else refused(folder):
        text = render(contents(read_record(folder / RECORD), seen or evidence.load(folder / PREDICTIONS), folder))
    with atomic(path) as temporary:
        temporary.write_text(text_of(text), encoding="utf-8")
    return path


def write_all(folder: Path) -> Path:
    """Write the report and the plots of the run in `folder` again, and return the report's path. UserError as above."""
    path, record = write(folder), read_record(folder / RECORD)
    with refused(folder):
        plots.write(folder, evidence.load(folder / PREDICTIONS), record["epochs"], part_of(record))
    return path


@contextmanager
def refused(folder: Path) -> Iterator[None]:
    """A block in which an entry that is missing, or of another type, ends in a UserError, whatever it leads to."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(f"no report can be made of {folder / RECORD} and {PREDICTIONS} ({reason_of(error)}): one is damaged, or they "
                        "are of different runs; do the run again by --force") from error


def read_record(path: Path) -> dict:
    """The content of run.json. UserError if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: None)  # NaN: nothing was measured
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({reason_of(error)}), and a report is made of it; give the folder of a finished "
                        "run") from error


def runs_in(paths: list[Path]) -> list[Path]:
    """The folders of runs among and below `paths`. UserError for one that has none."""
    found = []
    for path in paths:
        runs = sorted(file.parent for file in path.rglob(RECORD))
        if not runs:
            raise UserError(f"there is no run in {path}: no {RECORD}; give the folder of a finished run, or one with some")
        found += runs
    return found


def render(content: dict) -> str:
    """The page as HTML. Each text that comes from outside is escaped."""
    made = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"signed": signed, "fixed": fixed, "short": short}
    return made.get_template(FILE).render(content)


def plain(text: object) -> str:
    """A text as a page can hold it: bytes of names that are not UTF-8 are escaped, control signs replaced."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text_of(str(text)))


def short(name: str) -> str:
    """A name that fits under a thumbnail."""
    return name if len(name) <= NAME else f"{name[:NAME - 1]}…"


def fixed(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """With its sign, the minus one as long as the plus."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


# --- what the page says

def contents(record: dict, seen: Evidence, folder: Path) -> dict:
    """All that the page of a run says, by section; a section that the run has nothing for is None or empty."""
    tiles = {int(index): (data_uri(tile), plain(file)) for index, file, tile in zip(seen.tile_index, seen.tile_file, seen.tiles)}
    return {"run": run_part(record, seen, folder), "pool": pool_part(record, seen), "judged": judged_part(record, seen),
            "regions": [region_part(seen, order, tiles) for order in seen.regions()],
            "alone": [] if seen.regions() else [annotation(seen, order, tiles) for order in range(min(len(seen.annotated),
                                                                                                        evidence.ALONE))],
            "fixed": changed(seen, True, tiles), "broken": changed(seen, False, tiles), "epochs": epochs_part(record),
            "settings": settings_part(record)}


def part_of(record: dict) -> str:
    """The name of the part that accuracy is reported on."""
    return record["result"].get("judged_on") or ""


def is_taught(record: dict) -> bool:
    """Whether the run trained on the soft labels of a teacher."""
    return "teacher_acc" in record["result"]


def run_part(record: dict, seen: Evidence, folder: Path) -> dict:
    args = record["args"]
    strategy, number = SOLUTIONS[args["solution"]].strategy, None if args.get("model2test_path") else args.get("model_number")
    return {"name": folder.resolve().name, "model": args["model2test_arch"], "variant": "ABC"[number] if number in (0, 1, 2) else "",
            "dataset": args["dataset"], "solution": args["solution"], "by_region": strategy is None,
            "taught": is_taught(record), "measures": SOLUTIONS[args["solution"]].trusts,
            "rule": (inspect.getdoc(strategy) or "").partition("\n")[0] if strategy else "", "classes": len(seen.classes),
            "epochs": len(record["epochs"]), "replays": not args.get("no_replay"),
            "again": f"python tables.py --report {shlex.quote(str(folder))}"}


def pool_part(record: dict, seen: Evidence) -> dict:
    """How many images of the pool were annotated, took a label, and were used without; and how many of these labels are right."""
    result, answered = record["result"], seen.answers != UNKNOWN
    labels, taken = seen.selection.labels(seen.answers), seen.selection.propagated
    judged = taken & (seen.pool_truth != UNKNOWN)
    return {"n": len(seen.source), "annotated": len(seen.annotated), "unlabelled": result.get("n_unlabelled") or 0,
            "wrong": int((seen.predicted[seen.annotated] != seen.answers)[answered].sum()), "answered": int(answered.sum()),
            "propagated": int(taken.sum()), "known": result.get("n_known") or 0, "judged": int(judged.sum()),
            "right": int((labels == seen.pool_truth)[judged].sum()), "tau": result.get("tau"), "taught": result.get("teacher_acc"),
            "weights": [result.get(f"teacher_weight_{each}") for each in ("model", "features")]}


def accuracy(right: np.ndarray) -> dict:
    """The share of true among bool [n], n > 0, in percent, with its interval."""
    low, high = wilson(int(right.sum()), len(right))
    return {"right": int(right.sum()), "n": len(right), "percent": 100 * float(right.mean()), "low": low, "high": high}


def comparison(before: np.ndarray, after: np.ndarray) -> dict:
    """Accuracy before and after on the same n > 0 images, from correctness bool [n], and its change."""
    mended, broken = int((~before & after).sum()), int((before & ~after).sum())
    low, high = paired(mended, broken, len(before))
    return {"before": accuracy(before), "after": accuracy(after), "fixed": mended, "broken": broken, "n": len(before),
            "still_right": int((before & after).sum()), "still_wrong": int((~before & ~after).sum()),
            "change": 100 * (mended - broken) / len(before), "low": low, "high": high}


def judged_part(record: dict, seen: Evidence) -> dict | None:
    """The comparison on the judged part, and that of each class in it; None where no image of it has a label."""
    known = seen.truth != UNKNOWN
    if not known.any():
        return None
    truth = seen.truth[known]
    before, after = seen.before[known] == truth, seen.after[known] == truth
    classes = [{"name": plain(seen.classes[each])} | comparison(before[truth == each], after[truth == each])
               for each in np.unique(truth)]
    most = sorted(classes, key=lambda each: -abs(each["change"]))[:CLASSES]
    shown = [each for each in classes if any(each is other for other in most)]
    names, *bounds = ([each[key] for each in shown] for key in ("name", "change", "low", "high"))
    return comparison(before, after) | {
        "part": part_of(record), "raw": record["result"].get("acc_raw"), "classes": classes, "shown": shown,
        "by_chance": round(0.05 * len(classes)), "chart": charts.themed(partial(charts.changes, part_of(record), names, *bounds))}


def name_of(seen: Evidence, label: int) -> str | None:
    return None if label == UNKNOWN else plain(seen.classes[label])


def pool_tile(seen: Evidence, image: int, tiles: dict) -> dict:
    """A pool image, as far as it is known."""
    uri, file = tiles[int(seen.pool_index[image])]
    return {"uri": uri, "file": file, "index": int(seen.pool_index[image]), "predicted": name_of(seen, seen.predicted[image]),
            "true": name_of(seen, seen.pool_truth[image]),
            "unsmoothness": float(seen.unsmoothness[image]) if len(seen.unsmoothness) else None}


def annotation(seen: Evidence, order: int, tiles: dict) -> dict:
    """An annotated image, with the annotator's label."""
    return pool_tile(seen, seen.annotated[order], tiles) | {"label": name_of(seen, seen.answers[order]), "rank": order + 1}


def region_part(seen: Evidence, order: int, tiles: dict) -> dict:
    """A region: its representative, some of its members, and how many members have its label where that is known."""
    members, label = seen.members(order), seen.answers[order]
    truth = seen.pool_truth[members]
    everyone = np.append(members, seen.annotated[order])
    shown = [pool_tile(seen, each, tiles) for each in evidence.spread(members, evidence.MEMBERS)]
    for each in shown:
        each["wrong"] = each["true"] is not None and each["true"] != name_of(seen, label)
    return annotation(seen, order, tiles) | {
        "number": int(seen.region[order]), "size": len(everyone), "members": shown, "judged": int((truth != UNKNOWN).sum()),
        "right": int(((truth == label) & (truth != UNKNOWN)).sum()),
        "total": float(seen.unsmoothness[everyone].sum()) if len(seen.unsmoothness) else None}


def changed(seen: Evidence, right_after: bool, tiles: dict) -> list[dict]:
    """Some of the judged images that the repair fixed, or broke."""
    def tile(each: int) -> dict:
        index = int(seen.judged_index[each])
        return {"uri": tiles[index][0], "file": tiles[index][1], "index": index, "true": name_of(seen, seen.truth[each]),
                "before": name_of(seen, seen.before[each]), "after": name_of(seen, seen.after[each])}

    return [tile(each) for each in evidence.spread(seen.changed(right_after), evidence.CHANGED)]


def epochs_part(record: dict) -> dict:
    """The numbers of each epoch that the run has, as a table, and curves of them."""
    epochs = record["epochs"]
    columns = [name for name in EPOCH_COLUMNS if any(each.get(name) is not None for each in epochs)]
    number, drawn = [each["epoch"] for each in epochs], []

    def chart(title: str, name: str, figure: Callable) -> None:
        values = [each.get(name) for each in epochs]
        if name in columns and None not in values:
            drawn.append({"title": title, "first": values[0], "last": values[-1], "least": min(values), "most": max(values)}
                         | charts.themed(figure))

    def curve(title: str, y: str, name: str) -> None:
        chart(title, name, lambda: charts.curve(title, y, number, [each[name] for each in epochs]))

    before, part = record["result"].get("acc_before"), part_of(record)
    if before is not None:
        chart(f"{part} accuracy while fine-tuning", "acc", lambda: plots.accuracy(epochs, before, part, (5, 3.2)))
    curve("Loss on labels, soft ones of the teacher included" if is_taught(record) else "Loss on labelled images", "loss", "loss")
    curve("Loss of semi-supervised training", "SSL loss", "ssl_loss")
    curve("Unsmoothness of the pool", "sum over the pool", "unsmoothness")
    return {"columns": [EPOCH_COLUMNS[name] for name in columns], "charts": drawn,
            "rows": [(each["epoch"], [each.get(name) for name in columns]) for each in epochs]}


def settings_part(record: dict) -> dict:
    """Settings, versions, device and time, as pairs of a name and a text."""
    told = {name: value for name, value in record["args"].items() if value is not None}
    seconds = {name.removeprefix("seconds_"): value for name, value in record["result"].items() if name.startswith("seconds_")}
    memory = record.get("peak_memory_bytes")
    machine = {"finished": record.get("finished"), "device": record.get("device"), "processor": record.get("processor"),
               "project": record.get("project"), "versions": record.get("versions"),
               "memory": memory and f"{memory / 1e9:.2f} GB at most", "command": shlex.join(record.get("command", []))}
    return {"matter": [(name, plain(value)) for name, value in record["settings"].items()],
            "all": [(name, plain(value)) for name, value in told.items()], "seconds": list(seconds.items()),
            "machine": [(name, plain(value)) for name, value in machine.items() if value]}


def data_uri(tile: np.ndarray) -> str:
    """An image uint8 [h, w, 3] as a PNG where it is small, else as a JPEG."""
    kind, more = ("png", {}) if max(tile.shape[:2]) <= LOSSLESS else ("jpeg", {"quality": 85})
    file = io.BytesIO()
    Image.fromarray(tile).save(file, format=kind, **more)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
