"""How time and memory of the whole of selection.py grow with the pool: each stage of it, at several sizes.

    python benchmarks/stages.py                                  10,000 to 1,000,000 images of 32 pixels, on the CPU
    python benchmarks/stages.py --sizes 10000 30000 --limit 600

The images are written to a dataset folder without being held, and read from there as a memory map. The model under repair is a
MobileNet, the features are those of a MoCo v3 resnet18 (64 dimensions), neither of them trained, and the flags are `--solution
hybrid --cell_size 5000`. Stages come one after the other, as in a run:

    read         the dataset opened, its digest, and the pool's images into memory
    predictions  logits of the model
    features     those that regions are made in
    regions      noise and regions
    unsmoothness nine views of each image
    choice       what is annotated, and selected.csv

Each size is a process of its own, which tells the seconds of each stage and the most memory that it held during it. Results are kept
in results/benchmarks/stages_<device>.json after each stage; what is there already is not measured again (--force does), but computed
where a later stage needs it. A stage that would take more than --limit seconds by the power of N through its smaller sizes is left
out, and the table says what that power predicts. The choice then ranks by the entropy of the predictions instead.
"""
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
RESULTS = ROOT / "results" / "benchmarks"
README = ROOT / "benchmarks" / "README.md"
MARKS = "<!-- table: written by stages.py -->", "<!-- end of stages -->"
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
STAGES = ("read", "predictions", "features", "regions", "unsmoothness", "choice")
OTHERS = 200  # images of train and of T2 each, beside the pool
CHUNK = 10_000  # images written at a time
CLASSES = 10


def write(root: Path, n: int) -> None:
    """A dataset `large` in `root` with a pool of n images, a model under repair and a MoCo v3 encoder; nothing of it is held."""
    import torch

    from cases import images_of
    from hybridrepair.base import checkpoint
    from mymodels import create
    from mymodels.moco import MoCo
    folder = root / "large"
    folder.mkdir(parents=True)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(n + 2 * OTHERS, 32, 32, 3))
    rng, some = np.random.default_rng(0), images_of(1000)
    for begin in range(0, len(images), CHUNK):  # a thousand pictures, each seen in many ways
        part = images[begin:begin + CHUNK]
        part[:] = some[rng.integers(len(some), size=len(part))] // 2 + rng.integers(0, 128, part.shape, dtype=np.uint8)
    del images
    np.save(folder / "labels.npy", np.arange(n + 2 * OTHERS) % CLASSES)
    split = {"train": [0, OTHERS], "T2": [OTHERS, 2 * OTHERS], "pool": [2 * OTHERS, None]}
    (folder / "dataset.json").write_text(json.dumps({"split": split}))
    torch.manual_seed(0)
    checkpoint.save(root / "model.t7", {"net": create("MobileNet", CLASSES, 3).state_dict()})
    encoder = MoCo("resnet18", mlp_dim=1024)
    checkpoint.save(root / "encoder.pth.tar", {"state_dict": {f"module.{name}": value for name, value in encoder.state_dict().items()}})


def serve(connection, root: Path, stages: list[str], flags: list[str]) -> None:
    """Go through the stages, and send name, seconds and MB of each; those that are not named are left out where none needs them."""
    import selection
    from hybridrepair.base.device import device_of
    from hybridrepair.run import output
    from hybridrepair.run.scenario import Scenario
    from hybridrepair.selection.uncertainty import entropy, normalised
    from run import forget_peak, memory
    os.chdir(root)  # where nothing else is found, and what is made goes
    args = selection.parse_args(["--dataset", "large", "--data_path", str(root), "--model2test_path", str(root / "model.t7"),
                                 "--fe", str(root / "encoder.pth.tar"), "--save_path", str(root / "save"), *flags])
    device_of(args.device)
    task: Scenario

    def read() -> None:
        nonlocal task
        task = Scenario(args)
        assert task.data and len(task.pool.images)

    def choice() -> None:
        if "unsmoothness" not in task.pool.__dict__:
            task.pool.unsmoothness = normalised(entropy(task.pool.probs))
        folder = output.Run(task).folder
        output.write_selected(folder.with_name(f"selection_{folder.name}") / "selected.csv", task.pool, task.selection)

    work = {"read": read, "predictions": lambda: task.pool.probs, "features": lambda: task.pool.latents,
            "regions": lambda: task.pool.regions, "unsmoothness": lambda: task.pool.unsmoothness, "choice": choice}
    for name, step in work.items():
        if name == "read" or name in stages:
            forget_peak()
            start = time.perf_counter()
            step()
            connection.send((name, {"seconds": time.perf_counter() - start, "mb": memory("VmHWM")}))
    connection.send(None)


def predicted(row: dict[str, dict], n: int) -> float | None:
    """Seconds at n images from the largest measured size below n, by the power of N through all below, 1 at least; None without any.

    What a first call costs makes small sizes look as if time grew with less than N.
    """
    from growth import exponent
    sizes = sorted(int(size) for size in row if int(size) < n)
    if not sizes:
        return None
    seconds = [row[str(size)]["seconds"] for size in sizes]
    return seconds[-1] * (n / sizes[-1]) ** (max(exponent(sizes, seconds), 1.0) if len(sizes) > 1 else 1.0)


def wanted(rows: dict[str, dict], n: int, limit: float, force: bool) -> list[str]:
    """The stages to go through at n images: those not measured yet that fit into the limit, and those that these need."""
    fits = {stage for stage in STAGES if (predicted(rows.get(stage, {}), n) or 0) <= limit}
    if "features" not in fits:
        fits -= {"regions", "choice"}
    elif "regions" not in fits:
        fits -= {"choice"}
    new = {stage for stage in fits if force or str(n) not in rows.get(stage, {})}
    needs = {"regions": {"features"}, "choice": {"predictions", "features", "regions"}}
    return [stage for stage in STAGES if new and stage in new.union(*(needs.get(stage, ()) for stage in new))]


def table(rows: dict[str, dict]) -> str:
    """Seconds and MB by size, and the exponents of time, in Markdown; what was not measured is predicted."""
    from growth import slope
    sizes = sorted({int(size) for row in rows.values() for size in row} | {SIZES[-1]})
    lines = ["| stage | " + " | ".join(f"{size:,}: s / MB" for size in sizes) + " | time ~ N^ |", "| --- " * (len(sizes) + 2) + "|"]
    for stage in [each for each in STAGES if each in rows]:
        cells = [f"{row[str(n)]['seconds']:.3g} / {row[str(n)]['mb']:,.0f}" if str(n) in (row := rows[stage]) else
                 f"*{guess:,.0f} predicted*" if (guess := predicted(rows[stage], n)) is not None else "-" for n in sizes]
        lines.append(f"| {stage} | " + " | ".join([*cells, slope(rows[stage], "seconds") if len(rows[stage]) > 1 else "-"]) + " |")
    return "\n".join(lines)


def main() -> None:
    from growth import parser_of, started
    from run import machine, replace_between
    parser = parser_of(__doc__, SIZES)
    parser.add_argument("--cell_size", type=int, default=5000, metavar="N", help="of selection.py")
    parser.add_argument("--limit", type=float, default=3600, metavar="SECONDS", help="a stage that would take longer is predicted")
    parser.add_argument("--conditions", default="", metavar="TEXT", help="said beside the machine, such as: beside other work")
    parser.add_argument("--scratch", help="folder for the images, 3 kB each, and what is made of them (default: the system's)")
    args, path, result = started(parser, "stages")
    context = multiprocessing.get_context("spawn")
    for n in sorted(args.sizes):
        stages = wanted(result["rows"], n, args.limit, args.force)
        if not stages:
            continue
        with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
            root = Path(scratch).resolve()
            write(root, n)
            ours, theirs = context.Pipe()
            flags = ["--solution", "hybrid", "--p_budget", "1", "--cell_size", str(args.cell_size), "--device", args.device]
            process = context.Process(target=serve, args=(theirs, root, stages, flags))
            process.start()
            theirs.close()
            while (told := ours.recv()) is not None:
                stage, measured = told
                if not args.force and str(n) in result["rows"].get(stage, {}):
                    continue  # computed for a later stage
                print(f"{n:>9,} {stage:14} seconds {measured['seconds']:10.4g} mb {measured['mb']:10.4g}", flush=True)
                result["rows"].setdefault(stage, {})[str(n)] = measured
                result |= {"machine": machine(), "conditions": args.conditions}
                path.write_text(json.dumps(result, indent=1) + "\n")
            process.join()
    print(text(result))
    if path == RESULTS / "stages_cpu.json":
        replace_between(README, MARKS, text(result))


def text(result: dict) -> str:
    """The table of a result, and what it was measured on."""
    from run import made_on
    return f"{table(result['rows'])}\n\n{made_on(result['machine'])}" + (f" {result['conditions']}" if result["conditions"] else "")


if __name__ == "__main__":
    main()
