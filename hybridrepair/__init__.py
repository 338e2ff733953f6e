"""HybridRepair: repair a deployed image classifier with a small labelling budget.

`select` and `repair` work on arrays and modules in memory, see hybridrepair/api.py; the scripts at the root work on files.
"""
from typing import Any

__all__ = ["repair", "select"]


def __getattr__(name: str) -> Any:  # when asked for, because torch is slow to import and the scripts need other parts of it
    if name in __all__:
        from hybridrepair import api
        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
