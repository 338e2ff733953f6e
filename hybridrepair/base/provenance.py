"""Where a result comes from: versions, the commit of this project, and the machine."""
import platform
import re
import resource
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]  # of a checkout; of an installed package, the folder that packages lie in
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")


def versions() -> str:
    """Those of Python and the packages that numbers depend on."""
    return " ".join([f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)])


@cache
def project() -> str:
    """The version of this project, and of a checkout the commit, with a + where files have changed since."""
    told = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M) if (ROOT / "pyproject.toml").exists() else None
    try:
        number = told[1] if told else version("hybridrepair")
    except PackageNotFoundError:
        number = "of unknown version"
    commit = git("rev-parse", "HEAD") if (ROOT / ".git").exists() else None
    changed = "+" if commit and git("status", "--porcelain", "--untracked-files=no") else ""
    return f"hybridrepair {number}" + (f" commit {commit}{changed}" if commit else "")


def of(device: torch.device, args) -> dict[str, object]:
    """By what, where and by which command a result is made: the same each time that the same command goes on."""
    return {"versions": versions(), "project": project(), "device": device_name(device), "processor": processor(),
            "precision": args.precision, "seed": args.manualSeed, "command": sys.argv}


def git(*words: str) -> str | None:
    """What git says of the checkout; None where it cannot be asked."""
    try:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try:
        named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        named = None
    return named[1] if named else platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"


def peak_memory() -> int:
    """Bytes of main memory that the process has held at most."""
    try:  # of this program alone: what getrusage tells begins with the memory of the process that started it
        told = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    except OSError:
        told = None
    if told:
        return int(told[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
