"""How near the heavy steps come to what a device allows: their time beside the floor set by arithmetic and by bytes moved.

    python benchmarks/floor.py --device cuda                          on a GPU, at full sizes
    python benchmarks/floor.py --device cuda --precision bfloat16     the same in mixed precision
    python benchmarks/floor.py --device cuda --compile
    python benchmarks/floor.py --scale 0.02                           small, on the CPU

The device's arithmetic (of a large matrix product in the same precision) and bandwidth (of a large copy) are measured first.
The floor of a step is the larger of its operations over the one and its bytes over the other; its bytes are the inputs and
outputs of all layers, each moved once, and for a training step twice again. Results go to results/benchmarks/floor_*.json.
"""
import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from cases import CLASSES, MEAN, STD, features_of, images_of, labels_of, optimizer_of  # noqa: E402
from hybridrepair.base import errors  # noqa: E402
from hybridrepair.base.device import PRECISIONS, device_of, on_machine  # noqa: E402
from hybridrepair.images.augment import Normalise  # noqa: E402
from hybridrepair.run.flags import add_machine, number  # noqa: E402
from hybridrepair.selection.clustering import regions  # noqa: E402
from hybridrepair.selection.uncertainty import unsmoothness  # noqa: E402
from hybridrepair.training.passes import BATCH, Labelled, Unlabelled, ssl_pass, supervised_pass  # noqa: E402
from mymodels import create  # noqa: E402
from run import RESULTS, machine  # noqa: E402


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(step: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """The median time of a step, its first call not counted."""
    times = []
    for _ in range(repeats + 1):
        finish(device)
        start = time.perf_counter()
        step()
        finish(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def limits(device: torch.device, dtype: torch.dtype, size: int) -> tuple[float, float]:
    """Operations per second of a matrix product of `size`, and bytes per second of a copy of size^2 float32 numbers."""
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    big = torch.empty(size, size, device=device)
    return 2 * size ** 3 / seconds(lambda: a @ b, device), 2 * 4 * size ** 2 / seconds(big.clone, device)


def work(model: nn.Module, image: Tensor) -> tuple[float, float]:
    """Operations and bytes of a forward pass, for each of a batch of images float32 [N, C, H, W]."""
    moved = 0

    def count(module, inputs, output):
        nonlocal moved
        tensors = [*inputs, *(output if isinstance(output, tuple) else [output])]
        moved += sum(tensor.numel() for tensor in tensors)

    hooks = [module.register_forward_hook(count) for module in model.modules() if not list(module.children())]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() / len(image), moved / len(image)


def steps_of(model: nn.Module, device: torch.device, n: int, pool: int, steps: int) -> dict[str, tuple[Callable[[], object], int]]:
    """The heavy steps of a repair, and each one's forward passes of an image, a backward pass counted as two."""
    normalise, optimizer = Normalise(MEAN, STD, device), optimizer_of(model)
    images = torch.from_numpy(images_of(max(n, pool, steps * BATCH))).to(device)
    train = Labelled(images, torch.from_numpy(labels_of(len(images))).to(device))
    none = Labelled(images[:0], train.labels[:0])
    every = torch.arange(len(images), device=device)
    known = torch.full((steps * BATCH,), -1, device=device)
    return {
        f"training epoch, {n:,} images": (
            lambda: supervised_pass(model, optimizer, normalise, train, every[:n], none, 0.0, 0, 1), 3 * n),
        f"SSL pass, {steps} steps of 64 + 64 x 9 images": (
            lambda: ssl_pass(model, optimizer, normalise, train, every[:steps * BATCH], images[:steps * BATCH],
                             Unlabelled(torch.ones(steps * BATCH).numpy()), known, 100.0, 0, 1), steps * BATCH * (9 + 3 * 10)),
        f"unsmoothness pass, {pool:,} x 9 views": (lambda: unsmoothness(model, normalise, images[:pool], 1, 4608), 9 * pool),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=number(float, 0, 1, above=True), default=1.0, help="of all sizes")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    add_machine(parser)
    args = parser.parse_args()
    device = device_of(args.device)
    n, pool, n_regions = (int(size * args.scale) for size in (11250, 35000, 35000))
    steps = max(1, round(100 * args.scale))
    torch.manual_seed(0)
    model = create("MobileNet", CLASSES, 3)
    operations, moved = work(model, torch.randn(8, 3, 32, 32))
    dtype = PRECISIONS[args.precision] or torch.float32
    bytes_each = moved * dtype.itemsize
    on_machine(model, args, device)
    size = 8192 if device.type == "cuda" else 1024
    arithmetic, bandwidth = limits(device, dtype, size)
    exact, _ = limits(device, torch.float32, size)

    points = torch.from_numpy(features_of(n_regions, 64, unit=True)).to(device)
    rows = []
    for title, (step, passes) in steps_of(model, device, n, pool, steps).items():
        took = seconds(step, device)
        rows.append({"case": title, "seconds": took, "floor_arithmetic": passes * operations / arithmetic,
                     "floor_bytes": passes * bytes_each / bandwidth})
    took = seconds(lambda: regions(points, n_regions // 100), device, repeats=1)
    k = n_regions // 10
    rows.append({"case": f"noise points and regions, {n_regions:,} x 64", "seconds": took,
                 "floor_arithmetic": 2 * 64 * n_regions * (n_regions + k) / exact,
                 "floor_bytes": 4 * n_regions * (n_regions + k) / bandwidth})

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}: {arithmetic / 1e12:.2f} Tflop/s in {args.precision}, {bandwidth / 1e9:.0f} GB/s")
    print("| step | s | floor by arithmetic, s | floor by bytes, s | share of the floor |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        row["share"] = max(row["floor_arithmetic"], row["floor_bytes"]) / row["seconds"]
        print(f"| {row['case']} | {row['seconds']:.3g} | {row['floor_arithmetic']:.2g} | {row['floor_bytes']:.2g} "
              f"| {100 * row['share']:.0f} % |")
    args.output.mkdir(parents=True, exist_ok=True)
    compiled = "_compiled" if args.compile else ""
    (args.output / f"floor_{device.type}_{args.precision}{compiled}.json").write_text(json.dumps(
        {"device": name, "precision": args.precision, "compiled": args.compile, "scale": args.scale, "arithmetic": arithmetic,
         "bandwidth": bandwidth, "rows": rows, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    errors.run(main)
