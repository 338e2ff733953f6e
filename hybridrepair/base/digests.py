"""Digests: what tells files, arrays and tensors apart in settings, in the names of files and in messages."""
import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def of(*contents: bytes | np.ndarray | Iterator[np.ndarray]) -> str:
    """The first 16 hex digits of the SHA-256 of the contents, one after the other.

    Arrays of an iterator are held one at a time.
    """
    made = hashlib.sha256()
    for content in contents:
        for part in content if isinstance(content, Iterator) else [content]:
            made.update(np.ascontiguousarray(part).reshape(-1).data if isinstance(part, np.ndarray) else part)
    return made.hexdigest()[:16]


def of_tensors(*tensors: Tensor) -> str:
    """The digest of the elements of tensors on any device."""
    return of(*((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy() for tensor in tensors))
