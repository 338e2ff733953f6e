"""digests.py: the numbers of the standard, whatever holds the bytes."""
import numpy as np
import torch

from hybridrepair.base import digests


def test_a_digest_is_the_beginning_of_the_sha256():
    assert digests.of(b"abc") == "ba7816bf8f01cfea"  # FIPS 180-4, example of one block
    assert digests.of(b"a", iter([np.array([98, 99], np.uint8)])) == "ba7816bf8f01cfea"


def test_a_tensor_has_the_digest_of_its_elements():
    assert digests.of_tensors(torch.tensor([97, 98], dtype=torch.uint8), torch.tensor([[99]], dtype=torch.uint8)) == digests.of(b"abc")
