"""Answers of annotators as they were given, before it is known whether image and class exist."""
from typing import NamedTuple

from hybridrepair.images.identity import Identity


class Answer(NamedTuple):
    """What one annotator says of one image."""
    where: str  # file and line, task or path: the beginning of a message
    image: Identity | int  # or its position in the dataset, where a file says nothing else
    label: str  # "" for none
    annotator: str = ""  # "" where it is not said
    missing: str = ""  # why there is no label, where that is known
