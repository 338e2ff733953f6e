"""answers.py: what annotators give back is recognised by itself, and what cannot be understood is refused with its place."""
import json
import os
from dataclasses import replace

import pytest

from conftest import field_of, refusal
from hybridrepair.annotation import sorted_images
from hybridrepair.annotation.answers import digest_of, given, read
from hybridrepair.annotation.spreadsheet import protected
from hybridrepair.base.files import temporary_of
from hybridrepair.base.text import text_of
from hybridrepair.images.identity import Identity
from hybridrepair.images.identity import digest_of as digest_of_image


def csv_answers(folder, text, files=True):
    (folder / "a.csv").write_text(text)
    return [answer[1:4] for answer in read(folder / "a.csv", field_of(folder, 4, files=files), [])]


def test_a_row_names_its_image_by_id_and_digest(tmp_path):
    assert csv_answers(tmp_path, "rank,id,digest,label\n1,field/0.png,9f,cat\n2,field/1.png,,\n") == [
        (Identity("field/0.png", "9f"), "cat", ""), (Identity("field/1.png", ""), "", "")]


def test_in_a_table_of_label_studio_the_image_is_named_by_what_its_task_says_and_not_by_the_task(tmp_path):
    assert csv_answers(tmp_path, "annotator,digest,id,image,image_id,label,lead_time\n3,9f,17,/data/0.png,field/0.png,cat,1.5\n") == [
        (Identity("field/0.png", "9f"), "cat", "3")]
    assert csv_answers(tmp_path, "id,image_id,label\nfield/0.png,20231,cat\nfield/1.png,,dog\n") == [
        (Identity("field/0.png", ""), "cat", ""), (Identity("field/1.png", ""), "dog", "")]


def test_a_selected_csv_of_before_names_it_by_file_where_there_is_one_and_else_by_index_and_says_so(tmp_path, capsys):
    text = f"index,file,label\n0,{tmp_path}/field/3.png,cat\n"
    assert csv_answers(tmp_path, text) == [(Identity("field/3.png", ""), "cat", "")]
    assert capsys.readouterr().out == ""
    assert csv_answers(tmp_path, "index,file,label\n3,,cat\n", files=False) == [(3, "cat", "")]
    assert "position in the dataset (index)" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["/elsewhere/{0}/field/3.png", "./there/../{0}/field/3.png", "{0}/field/3.png"])
def test_a_file_is_known_by_its_path_inside_the_dataset_however_the_way_there_is_spelled(tmp_path, file):
    text = f"index,file,label\n0,{file.format(tmp_path.name)},cat\n"
    assert csv_answers(tmp_path, text) == [(Identity("field/3.png", ""), "cat", "")]


def test_a_file_whose_name_is_not_utf8_is_known_as_it_is_written_down(tmp_path):
    dataset = replace(field_of(tmp_path, 1), files=(os.fsdecode(b"field/caf\xe9.png"),))
    (tmp_path / "a.csv").write_text(f"index,file,label\n7,{text_of(dataset.file(0))},cat\n")
    assert [answer.image for answer in read(tmp_path / "a.csv", dataset, [])] == [Identity(r"field/caf\udce9.png", "")]


def test_the_position_of_an_image_that_is_gone_does_not_answer_another(tmp_path):
    message = refusal(csv_answers, tmp_path, f"index,file,label\n1,{tmp_path}/field/1.png,cat\n2,{tmp_path}/field/9.png,dog\n")
    assert "a.csv, line 3: image" in message and "field/9.png' is not in the pool" in message


def test_an_annotator_may_be_named(tmp_path):
    assert csv_answers(tmp_path, "id,label,annotator\n#1,cat, Ann \n", files=False) == [(Identity("#1", ""), "cat", "Ann")]


@pytest.mark.parametrize("text", ["", "id,label\n", "index,class\n50,cat\n", "50,cat\n60,dog\n", "label\ncat\n"])
def test_a_file_without_the_columns_or_rows_is_refused(tmp_path, text):
    assert "no rows with the columns id (or index) and label" in refusal(csv_answers, tmp_path, text)


@pytest.mark.parametrize("index", ["5.0", "", "cat", "-1", "5_0"])
def test_a_row_that_names_no_image_is_refused_with_its_line(tmp_path, index):
    message = refusal(csv_answers, tmp_path, f"index,label\n2,cat\n{index},dog\n")
    assert "a.csv, line 3" in message and f"image {index!r} is not in the pool" in message


def test_the_kind_is_recognised_by_the_content(tmp_path):
    dataset = field_of(tmp_path, 2)
    (tmp_path / "export.txt").write_text(json.dumps([{"id": 1, "image_id": "field/0.png", "label": "cat"}]))
    assert read(tmp_path / "export.txt", dataset, [])[0].label == "cat"
    (tmp_path / "cats" / "cat").mkdir(parents=True)
    (tmp_path / "cats" / "cat" / "any.png").write_bytes((tmp_path / "field" / "1.png").read_bytes())
    assert read(tmp_path / "cats", dataset, [])[0].label == "cat"


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "cannot be read" in refusal(read, tmp_path / "none.csv", field_of(tmp_path, 1), [])


def test_of_a_folder_of_questions_the_file_is_taken_and_where_images_may_be_sorted_too_it_is_asked_which(tmp_path):
    assert given(tmp_path) == tmp_path
    (tmp_path / "to_label.csv").write_text("id,label\n#0,\n")
    assert given(tmp_path) == tmp_path / "to_label.csv"
    (tmp_path / sorted_images.FOLDER).mkdir()
    for label in ("", "cat"):
        (tmp_path / "to_label.csv").write_text(f"id,label\n#0,{label}\n")
        message = refusal(given, tmp_path)
        assert f"give {tmp_path}/folders or {tmp_path}/to_label.csv, whichever holds the answers" in message


def test_it_is_told_how_many_sorted_images_were_moved_where_the_predicted_classes_are_known(tmp_path, capsys):
    dataset = field_of(tmp_path, 3, ("001", "dog"))
    rows = ""
    for index, predicted in enumerate(["001", "dog", "dog"]):
        folder = tmp_path / "folders" / ("001" if index < 2 else "dog")  # image 1 was moved
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes((tmp_path / f"field/{index}.png").read_bytes())
        rows += f"{protected(digest_of_image(dataset, index))},{protected(predicted)},\n"
    read(tmp_path / "folders", dataset, [])
    assert capsys.readouterr().out == ""
    (tmp_path / "to_label.csv").write_text(f"digest,predicted class,label\n{rows}")
    read(tmp_path / "folders", dataset, [])
    assert "folders: 1 of 3 images were moved to another class" in capsys.readouterr().out
    (tmp_path / "to_label.csv").write_bytes(b"\xff")
    assert len(read(tmp_path / "folders", dataset, [])) == 3


def test_sorted_images_whose_files_are_gone_are_told_by_their_pixels_and_changed_ones_are_refused(tmp_path):
    dataset = field_of(tmp_path, 2)
    dataset = replace(dataset, files=("field/0.JPG", "field/1.JPG"))  # which are not there
    names = [sorted_images.file_name(dataset, index, index + 1, digest_of_image(dataset, index)) for index in range(2)]
    sorted_images.write(tmp_path / "folders", ["cat"], ((name, 0, sorted_images.content_of(dataset, index))
                                                        for index, name in enumerate(names)))
    found = read(tmp_path / "folders", dataset, ["field/0.JPG", "field/1.JPG"])
    assert [answer.image for answer in found] == [Identity(f"field/{i}.JPG", digest_of_image(dataset, i)) for i in range(2)]
    assert all(name.endswith(".png") for name in names)
    (tmp_path / "folders/cat" / names[0]).write_bytes((tmp_path / "folders/cat" / names[1]).read_bytes())
    assert "was changed after it was written" in refusal(read, tmp_path / "folders", dataset, [])


def test_the_digest_of_answers_follows_content_and_place(tmp_path):
    (tmp_path / "f" / "cat").mkdir(parents=True)
    (tmp_path / "f" / "cat" / "a.png").write_bytes(b"1")
    first = digest_of(tmp_path / "f")
    temporary_of(tmp_path / "f" / "cat" / "b.png").touch()  # of a process that was killed
    for name in (".DS_Store", "Thumbs.db", "cat/._a.png"):  # of who looked into the folder
        (tmp_path / "f" / name).touch()
    assert digest_of(tmp_path / "f") == first
    (tmp_path / "f" / "cat").rename(tmp_path / "f" / "dog")
    assert digest_of(tmp_path / "f") != first
    assert digest_of(tmp_path / "f" / "dog" / "a.png") == "6b86b273ff34fce1"  # sha256 of "1"
