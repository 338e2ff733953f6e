"""arrays.py: mean and std exact and within a bound of memory, and files that are written whole or not at all."""
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from conftest import refusal
from hybridrepair.images import arrays
from hybridrepair.images.arrays import mean_std, read, save, taken


def test_mean_and_std_are_those_of_each_channel():
    images = np.zeros((2, 8, 8, 2), np.uint8)
    images[0, ..., 0], images[..., 1] = 255, 51
    mean, std = mean_std(images)
    assert mean == [.5, .2] and std == [.5, 1 / 255]  # a constant channel's std is one level, not 0


@pytest.mark.parametrize("chunk", [1, 5000, 2 ** 22])
def test_mean_and_std_do_not_depend_on_the_chunk(chunk, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (37, 9, 11, 3), dtype=np.uint8)
    monkeypatch.setattr(arrays, "CHUNK", chunk)
    mean, std = mean_std(images)
    assert mean == pytest.approx(images.mean((0, 1, 2)) / 255, rel=1e-14)
    assert std == pytest.approx(images.std((0, 1, 2)) / 255, rel=1e-12)


def test_the_std_of_nearly_equal_pixels_loses_no_digits():
    images = np.full((1000, 64, 64, 1), 254, np.uint8)
    images[::2] += 1
    assert mean_std(images) == ([254.5 / 255], [1 / 255])  # half a level, raised to one
    images[::2] -= 3
    assert mean_std(images)[1] == [1 / 255] and mean_std(images)[0] == [253 / 255]


def test_mean_and_std_take_memory_for_a_chunk_alone(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8))  # 3 MB
    monkeypatch.setattr(arrays, "CHUNK", 2 ** 14)
    images = read(tmp_path / "a.npy", memory_map=True)
    tracemalloc.start()
    mean_std(images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


def test_what_cannot_be_written_whole_is_not_written(tmp_path, monkeypatch):
    save(tmp_path / "a.json", {"a": 1})

    def full(*args):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(arrays.json, "dumps", full)
    assert "No space left" in refusal(save, tmp_path / "a.json", {"a": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == '{"a": 1}'


@pytest.mark.parametrize("memory_map", [True, False])
def test_a_header_that_claims_more_than_the_file_has_takes_no_memory(tmp_path, memory_map):
    for shape in ((10 ** 12,), (2 ** 40, 32, 32, 3), (10 ** 30,), (-1,)):
        with open(tmp_path / "a.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.write(bytes(1000))
        tracemalloc.start()
        assert "cannot be read as an array" in refusal(read, tmp_path / "a.npy", memory_map)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000_000


@pytest.mark.parametrize("memory_map", [True, False])
@pytest.mark.parametrize("array", [np.asfortranarray(np.arange(6).reshape(2, 3)), np.arange(6, dtype=">i4"), np.empty((0, 3)),
                                   np.array(5)], ids=["columns first", "big end first", "none", "no axis"])
def test_arrays_of_other_layouts_are_what_they_are(tmp_path, array, memory_map):
    np.save(tmp_path / "a.npy", array)
    found = read(tmp_path / "a.npy", memory_map)
    assert found.dtype == array.dtype and np.array_equal(found, array)


def test_what_is_no_single_array_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(3))
    assert "cannot be read as an array" in refusal(read, tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object))
    assert "cannot be read as an array" in refusal(read, tmp_path / "b.npy")


@pytest.mark.parametrize("chunk", [1, 5000, 2 ** 22])
def test_images_are_taken_by_their_places_whatever_the_chunk(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(arrays, "CHUNK", chunk)
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 9, 3), dtype=np.uint8)
    save(tmp_path / "images.npy", images)
    index = np.array([3, 49, 3, 0, *range(10, 40)])
    for each in (images, read(tmp_path / "images.npy", memory_map=True)):
        copy = taken(each, index)
        assert np.array_equal(copy, images[index]) and copy.flags.writeable and taken(each, index[:0]).shape == (0, 8, 9, 3)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell what is resident")
@pytest.mark.parametrize("reading", [lambda images: taken(images, np.arange(len(images))), mean_std,
                                     lambda images: [taken(images, np.array([place])) for place in range(0, len(images), 10)]])
def test_what_was_read_of_a_memory_map_does_not_stay_in_memory(tmp_path, reading):
    def resident() -> int:
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile")]
        return int(line.split()[1]) * 1024

    save(tmp_path / "images.npy", np.zeros((12_000, 32, 32, 3), np.uint8))  # 37 MB
    images, before = read(tmp_path / "images.npy", memory_map=True), resident()
    reading(images)
    assert resident() - before < 8e6
