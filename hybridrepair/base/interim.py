"""Interim results: what a long command computes on its way, kept in a file from which the same command goes on."""
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from hybridrepair.base import checkpoint, interruption, processes, states
from hybridrepair.base.errors import UserError

T = TypeVar("T", bound=tuple)
CPU = torch.device("cpu")


class Interim:
    """Results of a command with these settings by their names, each written to `path` once it is computed; without a path to none.

    `seconds` is what those took that were found there. A file of other settings counts as none, and so does a damaged one, which a
    line names. Of several processes the first reads it, for all, and writes it.
    """

    def __init__(self, path: Path | None = None, settings: Mapping | None = None):
        self.path, self.settings = path, settings
        self.seconds = 0.0
        self._results: dict[str, dict[str, Any]] = processes.led(self._found)
        if self._results:
            print(f"going on with what {path} has", flush=True)

    def _found(self) -> dict[str, dict[str, Any]]:
        if self.path is None or not self.path.exists():
            return {}
        try:
            content = states.read_state(self.path)
        except UserError as error:
            print(f"{error}; begun anew", flush=True)
            return {}
        return content["results"] if checkpoint.equal(content.get("settings"), self.settings) else {}

    def of(self, name: str, kind: Callable[..., T], compute: Callable[[], T], device: torch.device = CPU) -> T:
        """A named tuple of that kind, of tensors on the device and plain values: as it was kept, else as `compute` gives it."""
        if name in self._results:
            known = self._results[name]
            self.seconds += known["seconds"]
            return kind(*(part.to(device) if isinstance(part, Tensor) else part for part in known["parts"]))
        start = time.perf_counter()
        made = compute()
        if self.path is not None:
            with interruption.deferred():
                self._keep(self.path, name, made, time.perf_counter() - start)
        return made

    def _keep(self, path: Path, name: str, made: tuple, seconds: float) -> None:
        if processes.first():
            parts = tuple(part.cpu() if isinstance(part, Tensor) else part for part in made)
            self._results[name] = {"parts": parts, "seconds": seconds}
            states.write_state(path, {"settings": self.settings, "results": self._results})

    def close(self) -> None:
        """No more is to be kept: the memory is given back, and the file stays."""
        self.path, self._results = None, {}
