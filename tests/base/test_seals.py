"""seals.py: a file ends with its seal, or is not what was written."""
import pytest

from hybridrepair.base import seals


@pytest.mark.parametrize("size", [1, seals.CHUNK, seals.CHUNK + 1])
def test_a_sealed_file_is_what_was_written_and_a_seal_after_it(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(b"a" * size)
    assert not seals.is_sealed(path)
    seals.seal(path)
    assert seals.is_sealed(path) and path.read_bytes()[:-seals.LENGTH] == b"a" * size
    whole = path.read_bytes()
    for damaged in (b"b" + whole[1:], whole[:-1], whole + b"\n", whole[1:], whole[-seals.LENGTH:], b""):
        path.write_bytes(damaged)
        assert not seals.is_sealed(path)
