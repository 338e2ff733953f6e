"""Make a model under repair small enough to come with the project: its weights in half precision, in a checkpoint that says so.

    python results/half_precision.py check_point/cifar10/ckpt_bias/MobileNet_0_b.t7

Replaces the file, once its weights are found to be usable in half precision. The other entries stay, and `shipped` says what was done.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hybridrepair.base import checkpoint
from hybridrepair.base.errors import UserError, run

LARGEST = 7_000_000  # bytes of a file that comes with the project


def main(path: Path) -> None:
    content = checkpoint.load(path)
    weights = content.get("net")
    if not checkpoint.is_state_dict(weights):
        raise UserError(f"checkpoint {path} has no state_dict in its entry 'net'; give one of train.sh")
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    useless = [name for name, value in halves.items() if checkpoint.unusable(value)]
    if useless:
        raise UserError(f"{useless[0]} of {path} has values that are not finite in half precision; ship it as it is")
    size = sum(value.numel() * value.element_size() for value in halves.values())
    if size > LARGEST:
        raise UserError(f"{path} would take {size:,} bytes in half precision, more than {LARGEST:,}; ship a smaller model")
    checkpoint.save(path, content | {"net": halves, checkpoint.SHIPPED: "in half precision"})
    largest = max((float((value.float() - halves[name].float()).abs().max()) for name, value in weights.items() if value.numel()),
                  default=0.0)
    print(f"{path} takes {path.stat().st_size:,} bytes; no weight has changed by more than {largest:.2g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of train.sh; is replaced")
    run(main, parser.parse_args().checkpoint)
