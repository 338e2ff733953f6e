"""How time and memory of selection grow with the pool, features given: every solution at several sizes, budget 1 %.

    python benchmarks/growth.py                                       10,000 to 100,000 images, on the CPU
    python benchmarks/growth.py --device cuda --sizes 35000 100000 350000 1000000
    python benchmarks/growth.py --solution hybrid typiclust           these alone

Each measurement is a process of its own, one after another. Results are kept in results/benchmarks/growth_<device>.json, where
those that are there already are not measured again (--force does), and drawn beside it with the exponent e of time ~ N^e that
fits best. Memory is what the process (or the GPU) held at its peak beyond the features it was given. Regions in cells are set beside
the exact ones, where those were measured: by their inertia, and by the share of points of which both say the same, noise or not.
"""
import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
RESULTS = ROOT / "results" / "benchmarks"
README = ROOT / "benchmarks" / "README.md"
MARKS = "<!-- table: written by growth.py -->", "<!-- end of growth -->"
SIZES = (10_000, 35_000, 100_000)
EMBEDDING = 64  # dimensions that regions are made in; the others read 1,024
PERCENT = 1
LEAST = {"seconds": 0.1, "mb": 20}  # below that an exponent is noise
CELLS, CELL_SIZES = " --cell_size ", (5000,)  # rows of the approximation
MIN_SAMPLES = 3  # as in `regions` where nothing else is said


class Pool:
    """What strategies read of N images, on a device."""

    def __init__(self, folder: Path, device: str, cell_size: int = 0):
        import torch

        from hybridrepair.selection.uncertainty import entropy
        names = ("features", "embedding", "probs")
        self.features, self.embedding, self.probs = (torch.from_numpy(np.load(folder / f"{name}.npy")).to(device) for name in names)
        self.latents = self.features
        self.n, self.seed, self.cell_size = len(self.features), 10, cell_size
        self.unsmoothness = self.variance = entropy(self.probs)

    @property
    def regions(self):
        from hybridrepair.selection.clustering import regions
        return regions(self.embedding, self.n * PERCENT // 100, seed=self.seed, cell_size=self.cell_size)


def write(folder: Path, n: int) -> None:
    """The arrays of a pool of n images."""
    from cases import evidence_of, features_of
    folder.mkdir()
    evidence = evidence_of(n)
    np.save(folder / "features.npy", evidence.features.numpy())
    np.save(folder / "probs.npy", evidence.probs.numpy())
    np.save(folder / "embedding.npy", features_of(n, EMBEDDING, unit=True))


def exact_noise(pool: Pool, path: Path) -> np.ndarray:
    """Which points are noise, bool [N], when all pairs are looked at; kept in `path` for the other rows of this call."""
    if not path.exists():
        from hybridrepair.selection.clustering import NOISE, dense
        np.save(path, (dense(pool.embedding, MIN_SAMPLES) == NOISE).cpu().numpy())
    return np.load(path)


def once(connection, folder: Path, row: str, device: str, beside: bool) -> None:
    """Select once, and send seconds, MB, and of regions the inertia per point that is not noise.

    With `beside`, also how many of the points are noise, or not, as in the exact regions.
    """
    import torch

    from cases import inertia
    from hybridrepair.base.device import device_of
    from hybridrepair.selection.solutions import select
    from run import forget_peak, memory
    device_of(device)
    cuda = device.startswith("cuda")
    solution, _, cell_size = row.partition(CELLS)
    small = Pool(folder.with_name("small"), device)
    select(small, solution, 10)  # what only a first call costs
    pool = Pool(folder, device, int(cell_size or 0))
    before = torch.cuda.memory_allocated() / 2 ** 20 if cuda else memory("VmRSS")
    torch.cuda.reset_peak_memory_stats() if cuda else forget_peak()
    start = time.perf_counter()
    selection = select(pool, solution, pool.n * PERCENT // 100)  # on the host, so the device has finished
    measured = {"seconds": time.perf_counter() - start,
                "mb": (torch.cuda.max_memory_allocated() / 2 ** 20 if cuda else memory("VmHWM")) - before}
    assert len(np.unique(selection.annotated)) == pool.n * PERCENT // 100
    if selection.regions:
        label = selection.regions.label.cpu().numpy()
        measured["inertia"] = inertia(pool.embedding.cpu().numpy(), label)
        exact = folder / "noise.npy"
        if not cell_size:
            np.save(exact, label < 0)
        elif beside:
            measured["noise alike"] = float(((label < 0) == exact_noise(pool, exact)).mean())
    connection.send(measured)


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope of values over sizes, both on logarithmic scales, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def slope(row: dict, key: str) -> str:
    """The exponent of a quantity of a row, as text; - where its largest value is noise, or the only one."""
    sizes, values = [int(size) for size in row], [each[key] for each in row.values()]
    return f"{exponent(sizes, values):.2f}" if len(row) > 1 and max(values) > LEAST[key] and min(values) > 0 else "-"


def plot(rows: dict[str, dict], path: Path) -> None:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 4.5), layout="constrained")
    colours = pyplot.get_cmap("tab20").colors[::2] + pyplot.get_cmap("tab20").colors[1::2]
    for axis, key, title in zip(axes, LEAST, ("time, s", "peak memory beyond the features, MB")):
        for (solution, row), colour in zip(rows.items(), colours):
            told = " and ".join(f"{name} ~ N^{slope(row, k)}" for k, name in zip(LEAST, ("time", "memory")) if slope(row, k) != "-")
            values = [each[key] if key == "seconds" else max(each[key], 1) for each in row.values()]  # less than 1 MB is none
            axis.plot([int(size) for size in row], values, "o-", color=colour, label=solution + (f": {told}" if told else ""))
        axis.set(xscale="log", yscale="log", xlabel="images in the pool", ylabel=title)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def table(rows: dict[str, dict]) -> str:
    """Seconds and MB by size, and their exponents, in Markdown."""
    sizes = sorted({int(size) for row in rows.values() for size in row})
    lines = ["| solution | " + " | ".join(f"{size:,}: s / MB" for size in sizes) + " | time ~ N^ | memory ~ N^ |",
             "| --- " * (len(sizes) + 3) + "|"]
    for solution, row in rows.items():
        cells = [f"{row[str(size)]['seconds']:.3g} / {row[str(size)]['mb']:,.0f}" if str(size) in row else "-" for size in sizes]
        lines.append(f"| {solution} | " + " | ".join([*cells, *(slope(row, key) for key in LEAST)]) + " |")
    for solution, row in rows.items():
        exact = rows.get(solution.partition(CELLS)[0], {})
        told = [f"inertia {100 * (each['inertia'] / exact[size]['inertia'] - 1):+.2f} %, noise alike for "
                f"{100 * each['noise alike']:.2f} % of the points at {int(size):,}"
                for size, each in row.items() if size in exact and "noise alike" in each]
        if told:
            lines += ["", f"{solution} beside the exact regions: {'; '.join(told)}."]
    return "\n".join(lines)


def parser_of(doc: str, sizes: tuple[int, ...]) -> argparse.ArgumentParser:
    """The flags of measurements at several sizes of the pool."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(sizes), metavar="N", help="images in the pool")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--force", action="store_true", help="measure again what is there")
    return parser


def started(parser: argparse.ArgumentParser, name: str) -> tuple[argparse.Namespace, Path, dict]:
    """The flags, the file of the results called `name`, whose folder is made, and what it holds already."""
    args = parser.parse_args()
    if min(args.sizes) < 1000:
        parser.error("a pool has 1000 images or more, so that 1 % of it are 10")
    path = args.output / f"{name}_{args.device.split(':')[0]}.json"
    args.output.mkdir(parents=True, exist_ok=True)
    return args, path, json.loads(path.read_text()) if path.exists() else {"rows": {}}


def main() -> None:
    from hybridrepair.selection.solutions import SOLUTIONS
    from run import machine, made_on, replace_between
    selects = {}  # solutions that select alike are one
    for name, solution in SOLUTIONS.items():
        selects.setdefault(solution.strategy, name)
    rows = [*selects.values(), *(f"hybrid{CELLS}{size}" for size in CELL_SIZES)]
    parser = parser_of(__doc__, SIZES)
    parser.add_argument("--solution", nargs="+", default=rows, choices=rows)
    args, path, result = started(parser, "growth")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch) / "small", 1000)
        for n in args.sizes:
            missing = [each for each in args.solution if args.force or str(n) not in result["rows"].get(each, {})]
            if missing:
                write(Path(scratch) / str(n), n)
            for solution in missing:
                ours, theirs = context.Pipe()
                beside = str(n) in result["rows"].get(solution.partition(CELLS)[0], {})
                process = context.Process(target=once, args=(theirs, Path(scratch) / str(n), solution, args.device, beside))
                process.start()
                theirs.close()
                measured = ours.recv()
                process.join()
                print(f"{n:>9,} {solution:24}" + "".join(f" {name} {value:10.4g}" for name, value in measured.items()), flush=True)
                result["rows"].setdefault(solution, {})[str(n)] = measured
                result["machine"] = machine()
                path.write_text(json.dumps(result, indent=1) + "\n")
    plot(result["rows"], path.with_suffix(".png"))
    print(table(result["rows"]))
    if path == RESULTS / "growth_cpu.json":
        replace_between(README, MARKS, table(result["rows"]) + "\n\n" + made_on(result["machine"]))


if __name__ == "__main__":
    main()
