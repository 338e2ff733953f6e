"""Time each step against its published form, in turn, and write the table.

    python benchmarks/run.py                     all cases, at the sizes of the table: about an hour on two cores
    python benchmarks/run.py coreset badge       these cases
    python benchmarks/run.py --scale 0.05        small sizes, to see that everything runs; the table stays as it is
    python benchmarks/run.py --table             the tables of both READMEs again, from the results that are there

Each side of a case has a process of its own, so that neither's allocator, caches or threads help or hinder the other; they
take turns, published first, and both are idle while the other works. A side's first run is not counted where there are
several. Memory is what the process held at its peak beyond what it held before the first run.
"""
import argparse
import contextlib
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
RESULTS = ROOT / "results" / "benchmarks"
README, FRONT = ROOT / "benchmarks" / "README.md", ROOT / "README.md"
MARKS = "<!-- table: written by run.py -->", "<!-- end of table -->"


def memory(what: str) -> float:
    """Resident memory of this process in MB: VmRSS, now, or VmHWM, at its peak since `forget_peak`. Linux tells; else NaN."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def forget_peak() -> None:
    """Let VmHWM begin anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def serve(connection, name: str, side: str, scale: float) -> None:
    """One side of a case: makes its inputs and sends the size; then for every True it runs once and sends what it measured.

    The other side's result ends it, after it has sent how the two agree; None ends it at once.
    """
    import torch

    from cases import CASES
    from hybridrepair.base.device import device_of
    case = CASES[name].make(scale)
    if side == "ours":
        device_of("cpu")  # prepares the process as the scripts do: what making inputs has freed is no longer there by then
    connection.send((case.size, torch.get_num_threads()))
    before = memory("VmRSS")
    while (message := connection.recv()) is True:
        forget_peak()
        start = time.perf_counter()
        result = getattr(case, side)()
        connection.send((time.perf_counter() - start, result, memory("VmHWM") - before))
    if message is not None:
        connection.send(case.agreement(result, message))


def measure(name: str, scale: float, repeats: int) -> dict:
    """Times, memory and agreement of a case."""
    from cases import CASES
    context = multiprocessing.get_context("spawn")
    sides, seconds, held, results = {}, {"published": [], "ours": []}, {}, {}
    for side in seconds:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, name, side, scale), daemon=False)
        process.start()
        theirs.close()
        sides[side] = process, ours
        size, threads = ours.recv()  # one at a time: making inputs costs, too
    for turn in range(repeats + (repeats > 1)):
        for side, (_, connection) in sides.items():
            connection.send(True)
            took, results[side], held[side] = connection.recv()
            if turn or repeats == 1:
                seconds[side].append(took)
    sides["published"][1].send(None)
    sides["ours"][1].send(results["published"])
    agreement = sides["ours"][1].recv()
    for process, _ in sides.values():
        process.join()
    return {"case": name, "title": CASES[name].title, "size": size, "scale": scale, "target": CASES[name].target,
            "memory_target": CASES[name].memory_target, "seconds": seconds, "memory_mb": held, "agreement": agreement,
            "threads": threads, "ratio": statistics.median(seconds["published"]) / statistics.median(seconds["ours"]),
            "machine": machine()}


def machine() -> dict:
    """What the numbers were measured on."""
    import torch
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    return {"cpu": name, "cores": os.cpu_count(), "capability": torch.backends.cpu.get_cpu_capability(),
            "python": platform.python_version(), **{package: version(package) for package in
                                                    ("torch", "torchvision", "numpy", "scikit-learn")}}


def spread(seconds: list[float]) -> str:
    """Median, and from least to most where there are several, in seconds."""
    middle = f"{statistics.median(seconds):.3g}"
    return middle if len(seconds) == 1 else f"{middle} ({min(seconds):.3g} to {max(seconds):.3g})"


def row(result: dict) -> str:
    """A line of the table."""
    share = result["memory_mb"]["ours"] / max(result["memory_mb"]["published"], 1e-9)
    met = result["ratio"] >= result["target"] and (result["memory_target"] is None or share <= result["memory_target"])
    target = f"{result['target']:g}" + (f", memory {result['memory_target']:g}" if result["memory_target"] else "")
    memory = " / ".join(f"{result['memory_mb'][side]:,.0f}" for side in ("published", "ours"))
    return (f"| {result['title']} | {result['size']} | {spread(result['seconds']['published'])} | {spread(result['seconds']['ours'])} "
            f"| {result['ratio']:.1f} | {target} | {'met' if met else '**missed**'} | {memory} | {result['agreement']} |")


def results() -> list[dict]:
    """All results that are there, in the order of the cases."""
    from cases import CASES
    return [json.loads((RESULTS / f"{name}.json").read_text()) for name in CASES if (RESULTS / f"{name}.json").exists()]


def table() -> str:
    """The table of all results, in Markdown."""
    lines = ["| case | size | published, s | ours, s | ratio | target | | peak memory, MB: published / ours | agreement |",
             "| --- " * 9 + "|", *map(row, results())]
    machines = {json.dumps(result["machine"]): result["machine"] for result in results()}
    return "\n".join([*lines, *(line for one in machines.values() for line in ("", made_on(one)))])


def summary() -> str:
    """The same in brief, for the project's README."""
    lines = ["| step | size | published, s | ours, s | ratio |", "| --- " * 5 + "|"]
    for result in results():
        published, ours = (f"{statistics.median(result['seconds'][side]):.3g}" for side in ("published", "ours"))
        lines.append(f"| {result['title']} | {result['size']} | {published} | {ours} | {result['ratio']:.1f} |")
    return "\n".join(lines)


def replace_between(path: Path, marks: tuple[str, str], text: str) -> None:
    """Put `text` between the two marks of a file, in place of what is there."""
    whole = path.read_text()
    start, end = (whole.index(mark) for mark in marks)
    path.write_text(f"{whole[:start]}{marks[0]}\n{text}\n{whole[end:]}")


def made_on(one: dict) -> str:
    """A machine in a sentence."""
    packages = ", ".join(f"{name} {one[name]}" for name in ("torch", "torchvision", "numpy", "scikit-learn"))
    return f"Measured on {one['cpu']} ({one['capability']}), {one['cores']} cores, Python {one['python']}, {packages}."


def main() -> None:
    from cases import CASES
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help=f"any of {', '.join(CASES)} (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes")
    parser.add_argument("--repeats", type=int, help="measurements of each side (default: the case's own)")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    args = parser.parse_args()
    unknown = [name for name in args.case if name not in CASES]
    if unknown or not 0 < args.scale <= 1 or args.repeats is not None and args.repeats < 1:
        parser.error(f"there is no case {unknown[0]}; choose from {', '.join(CASES)}" if unknown else
                     "--scale is above 0 and at most 1, and --repeats 1 or more")
    for name in [] if args.table else args.case or CASES:
        result = measure(name, args.scale, args.repeats or CASES[name].repeats)
        print(row(result), flush=True)
        if args.scale == 1:
            RESULTS.mkdir(parents=True, exist_ok=True)
            (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    if args.scale == 1:
        replace_between(README, MARKS, table())
        replace_between(FRONT, MARKS, summary())


if __name__ == "__main__":
    main()
