"""sorted_images.py: images in folders of classes are written, and read wherever they were moved to."""
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from conftest import field_of, refusal
from hybridrepair.annotation.sorted_images import content_of, file_name, folder_name, read, write
from hybridrepair.images.identity import Identity, identity_of


def written(folder, dataset, predicted=(0, 1, 0)):
    """The folder with the first images of a dataset, one for each predicted class, and their identities."""
    identities = [identity_of(dataset, index) for index in range(len(predicted))]
    names = [file_name(dataset, index, index + 1, identity.digest) for index, identity in enumerate(identities)]
    write(folder / "folders", dataset.class_names, [(name, number, content_of(dataset, index))
                                                    for index, (name, number) in enumerate(zip(names, predicted))])
    return folder / "folders", names, identities


def answers(folder, dataset, ids=()):
    return [(answer.image, answer.label) for answer in read(folder, "labels file", dataset.class_names, not dataset.files, [*ids])]


@pytest.mark.parametrize("files", [True, False])
def test_what_was_written_is_read_with_its_class_and_moved_images_have_another(tmp_path, files):
    dataset = field_of(tmp_path, 3, files=files)
    folder, names, (first, second, third) = written(tmp_path, dataset)
    assert sorted(path.name for path in folder.iterdir()) == ["cat", "dog", "owl"]  # owl is empty
    (folder / "cat" / names[2]).rename(folder / "owl" / names[2])
    ids = [first.id, second.id, third.id]
    assert answers(folder, dataset, ids) == [(first, "cat"), (second, "dog"), (third, "owl")]
    unnamed = [Identity("", each.digest) for each in (first, second, third)]
    assert [image for image, _ in answers(folder, dataset)] == unnamed  # without a manifest the content tells


def test_a_copy_of_a_file_has_its_bytes_and_that_of_an_array_its_pixels(tmp_path):
    dataset = field_of(tmp_path, 1)
    assert content_of(dataset, 0) == (tmp_path / "field" / "0.png").read_bytes()
    for channels in (1, 3):
        arrays = replace(field_of(tmp_path, 1, files=False), images=np.random.randint(0, 256, (1, 9, 8, channels)).astype(np.uint8))
        folder, _, (identity,) = written(tmp_path / str(channels), arrays, (0,))
        assert answers(folder, arrays, [identity.id]) == [(identity, "cat")]


def test_an_image_that_was_renamed_or_lies_outside_of_all_classes_is_known_by_its_content(tmp_path):
    dataset = field_of(tmp_path, 3)
    folder, names, (first, second, third) = written(tmp_path, dataset)
    (folder / "dog" / names[1]).rename(folder / names[1])
    (folder / "cat" / names[0]).rename(folder / "cat" / "a cat.png")
    found = answers(folder, dataset, [first.id, second.id, third.id])
    assert set(found) == {(Identity("", first.digest), "cat"), (second, ""), (third, "cat")}


def test_hidden_and_other_files_and_empty_folders_are_skipped(tmp_path):
    dataset = field_of(tmp_path, 1)
    folder, _, _ = written(tmp_path, dataset, (0,))
    (folder / "cat" / "Thumbs.db").write_bytes(b"")
    (folder / "cat" / "._0001.png").write_bytes(b"")
    (folder / "unsure").mkdir()
    assert len(answers(folder, dataset)) == 1


def test_a_changed_image_and_one_in_a_folder_within_a_folder_are_refused_with_their_paths(tmp_path):
    dataset = field_of(tmp_path, 3)
    folder, names, _ = written(tmp_path, dataset)
    (folder / "owl").rename(folder / "dog" / "owl")
    (folder / "dog" / names[1]).rename(folder / "dog" / "owl" / names[1])
    message = refusal(answers, folder, dataset)
    assert names[1] in message and "a folder within a folder" in message
    Image.new("RGB", (8, 8)).save(folder / "cat" / names[0])
    message = refusal(answers, folder, dataset)
    assert names[0] in message and "was changed" in message


def test_an_image_of_pixels_that_cannot_be_read_is_refused(tmp_path):
    dataset = field_of(tmp_path, 1, files=False)
    folder, names, _ = written(tmp_path, dataset, (0,))
    (folder / "cat" / names[0]).write_bytes(b"no image")
    message = refusal(answers, folder, dataset)
    assert names[0] in message and "cannot be read" in message


def test_images_of_many_channels_are_not_written(tmp_path):
    dataset = replace(field_of(tmp_path, 1, files=False), images=np.zeros((1, 8, 8, 5), np.uint8))
    assert "5 channels" in refusal(content_of, dataset, 0)


def test_folders_of_classes_with_any_name_are_read_back(tmp_path):
    classes = ("a/b", "..", "100 %", "Ж漢", "a%2Fb", ".hidden")
    assert len({folder_name(name) for name in classes}) == len(classes) and folder_name("stop sign") == "stop sign"
    dataset = field_of(tmp_path, 6, classes)
    folder, _, identities = written(tmp_path, dataset, range(6))
    found = answers(folder, dataset, [each.id for each in identities])
    assert set(found) == set(zip(identities, classes))
