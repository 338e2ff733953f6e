"""The device that computes: what its flags mean, and how the process and the networks are prepared for it."""
import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn

from hybridrepair.base import processes
from hybridrepair.base.errors import UserError

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}  # None: as the weights are
SIDE = 32  # pixels of the images that a batch size counts


def device_of(name: str) -> torch.device:
    """The torch device called `name`, once it is known to work, and the process prepared for it. UserError if not.

    Each of the processes that torchrun has started gets its own GPU.
    """
    try:
        device = torch.device(name)
        if device.type == "cuda":
            repeatable()
        if processes.several():
            device = device_among(device)
        # the meta device can be named, but not computed on, and mps has no float64
        torch.zeros(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError) as error:
        reason = re.split(r"[.\n]", str(error))[0]
        raise UserError(f"device {name} cannot be used ({reason}); give --device cpu, or another one") from error
    if device.type == "cpu":
        keep_freed_memory()
    return device


def device_among(device: torch.device) -> torch.device:
    """The device of this process among several, of a kind that all were told; the first says how many they are. ValueError if none."""
    here, machines = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("GROUP_WORLD_SIZE", 1))
    if device.type == "cuda":
        if device.index is not None or here >= torch.cuda.device_count():
            raise ValueError(f"each process takes a GPU of its own, and this machine has {torch.cuda.device_count()}")
        device = torch.device("cuda", here)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise ValueError("several processes compute on CUDA or on the CPU")
    print(f"{processes.size()} processes on {machines} machine{'s' if machines > 1 else ''} share the work, by "
          f"{'nccl' if device.type == 'cuda' else 'gloo'}", flush=True)
    return device


def on_machine(model: nn.Module, args, device: torch.device) -> nn.Module:
    """The model on a device, in channels_last, computing as the flags of `add_machine` say; what it gives stays float32.

    A copy of it computes at the same precision, and is not compiled.
    """
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the pair
    dtype = PRECISIONS[args.precision]
    if dtype is not None:
        def forward(self, *inputs):
            with torch.autocast(device.type, dtype):
                outputs = type(self).forward(self, *inputs)
            return outputs.float() if isinstance(outputs, Tensor) else tuple(output.float() for output in outputs)
        model.forward = MethodType(forward, model)  # a method, so that a deep copy has one of its own
        for layer in model.modules() if device.type == "cpu" else ():
            if isinstance(layer, nn.Conv2d) and layer.stride[1] > 1 and max(layer.kernel_size) > 1 and "forward" not in vars(layer):
                layer.forward = MethodType(of_narrow_maps_in_float32, layer)  # type: ignore[method-assign]
    if compiles(args):
        model.compile()
    return model


def of_narrow_maps_in_float32(layer: nn.Conv2d, input: Tensor) -> Tensor:
    """The forward pass of a convolution in bfloat16, but of maps that are narrower than its stride in float32.

    There torch (2.14, on a CPU) leaves in the gradient of those weights that meet no pixel whatever the memory held.
    """
    if input.shape[-1] >= layer.stride[1]:
        return type(layer).forward(layer, input)
    with torch.autocast("cpu", enabled=False):
        return type(layer).forward(layer, input.float())


def compiles(args) -> bool:
    """Whether networks are compiled: not by several processes, whose common batch norm cannot be."""
    return args.compile and not processes.several()


def images_at_once(n: int, height: int, width: int) -> int:
    """How many images of this size go through a network where n of 32x32 pixels do: fewer of larger ones, n of smaller ones.

    So the memory that a pass takes has the same bound at any size.
    """
    return min(n, max(1, n * SIDE ** 2 // (height * width)))


def repeatable() -> None:
    """Let CUDA compute the same numbers at each run, as the published scripts do; to be called before CUDA is used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let layers that draw, such as dropout, draw from a 64-bit seed on the CPU and on `device` (with its index).

    So their draws repeat, and the generators of torch, which belong to the caller, go on as if nothing had been drawn.
    """
    others = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(others, device_type=device.type if others else "cuda"):
        torch.default_generator.manual_seed(seed)
        for each in others:
            torch.get_device_module(each).default_generators[each.index].manual_seed(seed)
        yield


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
