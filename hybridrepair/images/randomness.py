"""Counter-based random numbers: a draw is a function of its key and counters alone.

So an image's augmentation does not depend on batch size, order, worker count or device, two passes with the same key see
the same views, and an interrupted run continues as if it had not been. The mixing function is the finaliser of
SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""
import zlib

import numpy as np
import torch
from torch import Tensor

SEED = 10  # of a run that is told no other
MAX_SEED = 2 ** 63 - 1
MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: consecutive counters land far apart
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The int64 with the same bits as a 64-bit unsigned integer."""
    return value - (1 << 64) if value >> 63 else value


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * FIRST) & MASK
    z = ((z ^ (z >> 27)) * SECOND) & MASK
    return z ^ (z >> 31)


def key(seed: int, purpose: str, *counters: int) -> int:
    """A 64-bit key from a seed, the purpose of the draws and, for example, the epoch."""
    state = zlib.crc32(purpose.encode())
    for counter in (seed, *counters):
        state = _mix((state + (counter + 1) * STEP) & MASK)
    return state


def uniform(key: int, *counters: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), float64, one for each element of the broadcast int64 counters (on their device)."""
    state: Tensor | int = _signed(key)
    for counter in counters:
        z = state + (counter + 1) * _signed(STEP)
        z = (z ^ _shift(z, 30)) * _signed(FIRST)
        z = (z ^ _shift(z, 27)) * _signed(SECOND)
        state = z ^ _shift(z, 31)
    assert isinstance(state, Tensor)
    return _shift(state, 11).to(torch.float64) * 2.0 ** -53


def generator(key: int) -> np.random.Generator:
    """A NumPy generator for draws that are made once, on the host."""
    return np.random.Generator(np.random.Philox(key=key))
