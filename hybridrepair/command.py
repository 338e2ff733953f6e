"""The console command of an installed package: hybridrepair train|pretrain|select|repair|tables, the scripts by other names."""
import sys
from importlib import import_module

from hybridrepair.base.errors import run

ENTRIES = {"train": "train_classifier", "pretrain": "pretrain_moco", "select": "selection", "repair": "repair", "tables": "tables"}


def main() -> None:
    """Call the script that the first word names with the other words, as `hybridrepair <word>`."""
    words = sys.argv[1:]
    if not words or words[0] not in ENTRIES:
        asked = words[:1] in (["-h"], ["--help"])
        print(f"usage: hybridrepair {'|'.join(ENTRIES)} [flags]; hybridrepair <one of these> --help tells the flags",
              file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    sys.argv = [f"hybridrepair {words[0]}", *words[1:]]
    entry = import_module(f"hybridrepair.entries.{ENTRIES[words[0]]}")
    run(lambda: entry.main(entry.parse_args()))
