"""Command lines: a parser that reports a mistake in one sentence, and what flags about the machine mean."""
import argparse
import ctypes
import math
import re
import sys
from types import MethodType
from typing import NoReturn

import torch
from torch import Tensor, nn

from errors import UserError

SEED = 10
MAX_SEED = 2 ** 63 - 1
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}  # None: as the weights are


class Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the line breaks of the description, and adds defaults to the help texts."""


class Parser(argparse.ArgumentParser):
    """argparse with the commands of a module docstring as its description, and mistakes in one sentence, exit status 2."""

    def __init__(self, doc: str):
        super().__init__(description=doc, formatter_class=Formatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see python {self.prog} --help\n")


def number(kind: type, least: float, most: float = math.inf, above: bool = False):
    """An argparse type: a finite number of `kind` from `least` (or above it) to `most`."""
    def parse(text: str):
        value = kind(text)
        if not ((value > least if above else value >= least) and value <= min(most, sys.float_info.max)):
            limit = f"above {least}" if above else f"{least} or more"
            raise argparse.ArgumentTypeError(f"{text} is out of range: give a number {limit}"
                                             + (f" and at most {most}" if most < math.inf else ""))
        return value
    parse.__name__ = {int: "whole number", float: "number"}[kind]  # argparse puts it into "invalid ... value"
    return parse


def add_machine(parser: Parser) -> None:
    """Flags about the machine: none of them changes what is computed, but --precision its rounding."""
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", metavar="NAME",
                       help="torch device that holds the images and computes")
    group.add_argument("--precision", choices=list(PRECISIONS), default="float32", help="of the networks' layers: bfloat16 is "
                       "mixed precision, for processors that have it; weights and losses stay float32")
    group.add_argument("--compile", action="store_true", help="compile the networks, which pays in long runs on a GPU: it takes "
                       "minutes at first, and on a CPU needs a C++ compiler")
    group.add_argument("--num_workers", type=number(int, 0), default=0,
                       help="accepted for published calls; images are augmented in batches on the device, without workers")


def device_of(name: str) -> torch.device:
    """The torch device called `name`, once it is known to work, and the process prepared for it. UserError if not."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the meta device can be named, but not computed on
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = re.split(r"[.\n]", str(error))[0]
        raise UserError(f"device {name} cannot be used ({reason}); give --device cpu, or another one") from error
    if device.type == "cpu":
        keep_freed_memory()
    return device


def on_machine(model: nn.Module, args, device: torch.device) -> nn.Module:
    """The model on a device, in channels_last, computing as the flags of `add_machine` say; what it gives stays float32.

    A copy of it computes at the same precision, and is not compiled.
    """
    model.to(device, memory_format=torch.channels_last)
    dtype = PRECISIONS[args.precision]
    if dtype is not None:
        def forward(self, *inputs):
            with torch.autocast(device.type, dtype):
                outputs = type(self).forward(self, *inputs)
            return outputs.float() if isinstance(outputs, Tensor) else tuple(output.float() for output in outputs)
        model.forward = MethodType(forward, model)  # a method, so that a deep copy has one of its own
    if args.compile:
        model.compile()
    return model


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step, which otherwise spends its time on page faults.

    A synthetic SSL step took half the time with it. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own
    mallopt(-1, 2 ** 31 - 1)  # M_TRIM_THRESHOLD: nothing goes back
