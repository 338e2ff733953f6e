"""identity.py: an image keeps its identity when others are added, and another content is another identity."""
import os
from dataclasses import replace
from hashlib import sha256

import numpy as np

from conftest import field_of
from hybridrepair.images.identity import ABSENT, CHANGED, Identity, digest_of, id_of, identity_of, places


def all_of(dataset, part=None):
    return [identity_of(dataset, index) for index in (dataset.split["pool"] if part is None else part)]


def test_an_image_of_a_folder_is_named_by_its_path_and_the_digest_of_its_file(tmp_path):
    dataset = field_of(tmp_path, 2)
    content = (tmp_path / "field" / "1.png").read_bytes()
    assert identity_of(dataset, 1) == ("field/1.png", sha256(content).hexdigest()[:16])


def test_an_image_of_an_array_is_named_by_its_position_and_the_digest_of_its_pixels(tmp_path):
    dataset = field_of(tmp_path, 2, files=False)
    assert identity_of(dataset, 1) == ("#1", sha256(bytes([11]) * 192).hexdigest()[:16])


def test_where_the_files_are_gone_the_pixels_tell_images_apart(tmp_path):
    dataset = field_of(tmp_path, 2)
    for path in (tmp_path / "field").iterdir():
        path.unlink()
    assert digest_of(dataset, 0) != digest_of(dataset, 1)


def test_a_name_that_is_no_utf_8_has_an_identity_that_can_be_written(tmp_path):
    dataset = replace(field_of(tmp_path, 1), files=(os.fsdecode(b"field/\xff.png"),))
    assert id_of(dataset, 0) == r"field/\udcff.png"


def test_places_are_found_by_name_and_content(tmp_path):
    dataset = field_of(tmp_path, 5)
    part = np.array([4, 2, 3])
    assert list(places(dataset, part, all_of(dataset, [2, 4])).values()) == [1, 0]
    assert places(dataset, part, [Identity("field/3.png", "")]) == {("field/3.png", ""): 2}
    assert places(dataset, part, all_of(dataset, [0])) == {identity_of(dataset, 0): ABSENT}


def test_an_image_is_found_where_it_has_been_moved_to(tmp_path):
    """In arrays an image inserted at the front shifts all others; in a folder a file is renamed."""
    for files in (True, False):
        dataset = field_of(tmp_path, 4, files=files)
        known = all_of(dataset)
        images = np.concatenate([dataset.images[:1] + 100, dataset.images])
        names = ("field/new.png", "field/a.png", *dataset.files[1:]) if files else ()
        if files:
            (tmp_path / "field" / "0.png").rename(tmp_path / "field" / "a.png")
            (tmp_path / "field" / "new.png").write_bytes(b"new")
        later = replace(dataset, images=images, files=names, split={"pool": np.arange(5)})
        assert [places(later, later.split["pool"], known)[each] for each in known] == [1, 2, 3, 4]


def test_an_image_with_another_content_under_its_name_is_changed(tmp_path):
    dataset = field_of(tmp_path, 3)
    known = all_of(dataset)
    (tmp_path / "field" / "1.png").write_bytes(b"another")
    found = places(dataset, dataset.split["pool"], known)
    assert [found[each] for each in known] == [0, CHANGED, 2]


def test_copies_that_were_renamed_are_each_found_once_and_a_content_without_a_name_at_the_first(tmp_path):
    dataset = field_of(tmp_path, 2, files=False)
    images = dataset.images[[0, 0, 1]]
    dataset = replace(dataset, images=images, split={"pool": np.arange(3)})
    content = digest_of(dataset, 0)
    moved = [Identity("#7", content), Identity("#8", content), Identity("#9", content)]
    assert places(dataset, np.arange(3), moved) == dict(zip(moved, [0, 1, ABSENT]))
    both = [identity_of(dataset, 0), Identity("", content)]
    assert places(dataset, np.arange(3), both) == dict.fromkeys(both, 0)
    second = [Identity("#1", content), Identity("", content)]
    assert places(dataset, np.arange(3), second) == dict.fromkeys(second, 1)  # the copy that was asked for
