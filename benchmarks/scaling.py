"""How much faster several processes do the heavy steps of a repair than one: the same images by each number of processes, in turn.

    python benchmarks/scaling.py                                on the CPU one and two processes, with a core each; some ten minutes
    python benchmarks/scaling.py --device cuda                  on GPUs as many as there are, and half of them, and so on
    python benchmarks/scaling.py --processes 1 2 4 --threads 4

Each turn starts as many processes by torchrun, which do each step once before they are timed; the slowest of them counts. On the CPU a
process has --threads threads, and takes from the others what it needs of memory's bandwidth and of the caches: two cores show what
sharing costs, not what two machines would give. Results go to results/benchmarks/scaling_<device>.json, and to the table of README.md.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402

from cases import CLASSES  # noqa: E402
from floor import finish, steps_of  # noqa: E402
from hybridrepair.base import errors, processes  # noqa: E402
from hybridrepair.base.device import device_of, on_machine  # noqa: E402
from hybridrepair.base.errors import UserError  # noqa: E402
from hybridrepair.run.flags import add_machine, number  # noqa: E402
from mymodels import create  # noqa: E402
from run import RESULTS, machine, made_on, replace_between, spread  # noqa: E402

README = ROOT / "benchmarks" / "README.md"
MARKS = "<!-- table: written by scaling.py -->", "<!-- end of scaling -->"
SIZES = {"cpu": (1024, 1024, 2), "cuda": (11250, 35000, 100)}  # images of an epoch and of a pool, SSL steps


def measure(args, told: Path) -> None:
    """Write the seconds that this process and those beside it take for each step to a file."""
    device = device_of(args.device)
    torch.manual_seed(0)
    model = on_machine(create("MobileNet", CLASSES, 3), args, device)
    n, pool, steps = (max(2, round(size * args.scale)) for size in SIZES[device.type])
    seconds = {}
    for title, (step, _) in steps_of(model, device, n, pool, steps).items():
        for _ in range(2):  # the second time counts
            processes.largest(0)  # all begin together
            start = time.perf_counter()
            step()
            finish(device)
            seconds[title] = processes.largest(round(1e6 * (time.perf_counter() - start))) / 1e6
    if processes.first():
        told.write_text(json.dumps(seconds))


def turn(n: int, args, words: list[str]) -> dict[str, float]:
    """The seconds of each step by n processes."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "seconds.json")
        done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}", __file__, *words,
                               "--measure", told], env=os.environ | {"OMP_NUM_THREADS": str(args.threads)}, stdout=subprocess.PIPE)
        if done.returncode:
            raise UserError(f"{n} processes did not come to an end; see what they said above")
        return json.loads(told.read_text())


def table(result: dict) -> str:
    """The table of a result, in Markdown."""
    numbers = list(result["seconds"])
    lines = ["| step | " + " | ".join(f"{n} process{'es' * (n != '1')}, s" for n in numbers) + " | times as fast |", "| --- " * (
        len(numbers) + 2) + "|"]
    for title in result["seconds"][numbers[0]]:
        taken = [result["seconds"][n][title] for n in numbers]
        times = ", ".join(f"{statistics.median(taken[0]) / statistics.median(each):.2f}" for each in taken[1:])
        lines.append(f"| {title} | " + " | ".join(map(spread, taken)) + f" | {times} |")
    return "\n".join([*lines, "", made_on(result["machine"])])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=number(int, 1), nargs="+", help="numbers of processes, the first of which is compared with")
    parser.add_argument("--threads", type=number(int, 1), default=1, help="of a process on the CPU")
    parser.add_argument("--repeats", type=number(int, 1), default=3, help="turns of each number")
    parser.add_argument("--scale", type=number(float, 0, 1, above=True), default=1.0, help="of all sizes")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    add_machine(parser)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.measure:
        measure(args, args.measure)
        return
    kind = torch.device(args.device).type
    if kind not in SIZES:
        raise UserError(f"device {args.device} is not one of {', '.join(SIZES)}, by which several processes compute")
    most = torch.cuda.device_count() if kind == "cuda" else 2
    numbers = args.processes or sorted({1, *(most >> halved for halved in range(most.bit_length()))})
    if len(numbers) < 2:
        print(f"there is one number of processes, {numbers[0]}, so that there is nothing to compare")
        return
    seconds: dict[str, dict[str, list[float]]] = {str(n): {} for n in numbers}
    for _ in range(args.repeats):
        for n in numbers:
            for title, took in turn(n, args, sys.argv[1:]).items():
                seconds[str(n)].setdefault(title, []).append(took)
    name = torch.cuda.get_device_name() if kind == "cuda" else "CPU"
    result = {"device": name, "precision": args.precision, "threads": args.threads, "scale": args.scale, "seconds": seconds,
              "machine": machine()}
    print(table(result))
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / f"scaling_{kind}.json").write_text(json.dumps(result, indent=1) + "\n")
    if args.scale == 1 and args.output == RESULTS and kind == "cpu":
        replace_between(README, MARKS, table(result))


if __name__ == "__main__":
    errors.run(main)
