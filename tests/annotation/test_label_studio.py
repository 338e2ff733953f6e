"""label_studio.py: tasks in the form that is imported, and the two forms of export read."""
import json
from xml.etree import ElementTree

import pytest

from conftest import refusal
from hybridrepair.annotation.label_studio import config, read, task
from hybridrepair.images.identity import Identity

IMAGE = Identity("field/a.png", "0123456789abcdef")


def made() -> dict:
    return task(IMAGE, "images/0001_0123456789abcdef.png", {"rank": 1}, "cat", .75, "MobileNet 9f")


def annotation(*choices: object, by: object = 7, cancelled: bool = False) -> dict:
    result = [{"id": "x", "from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [*choices]}}]
    return {"id": 100, "completed_by": by, "was_cancelled": cancelled, "result": result if choices else []}


def answers(folder, *annotations: dict, **more):
    (folder / "export.json").write_text(json.dumps([made() | {"id": 12, "annotations": [*annotations], "drafts": []} | more]))
    return read(folder / "export.json", "labels file")


def smallest(folder, **more):
    (folder / "min.json").write_text(json.dumps([made()["data"] | {"id": 12, "annotation_id": 3, "lead_time": 1.5} | more]))
    return read(folder / "min.json", "labels file")


def test_a_task_has_the_image_its_identity_and_the_prediction():
    assert made() == {
        "data": {"image": "/data/local-files/?d=images/0001_0123456789abcdef.png", "image_id": "field/a.png",
                 "digest": "0123456789abcdef", "rank": 1},
        "predictions": [{"model_version": "MobileNet 9f", "score": .75, "result": [
            {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}]}]}


def test_the_interface_offers_the_classes_whatever_their_names():
    names = ["a & b", "<c>", 'say "d"', "it's", "Ж漢", "001"]
    view = ElementTree.fromstring(config(names))
    assert [each.get("value") for each in view.iter("Choice")] == names
    image, choices = view.find("Image"), view.find("Choices")
    assert image.get("name") == choices.get("toName") == "image" and image.get("value") == "$image"
    assert choices.get("name") == "label" and choices.get("choice") == "single"


def test_an_annotation_is_an_answer_of_its_annotator(tmp_path):
    (answer,) = answers(tmp_path, annotation("dog"))
    assert answer[1:4] == (IMAGE, "dog", "7") and "export.json, task 12, annotation 100" in answer.where
    (answer,) = answers(tmp_path, annotation("dog", by={"id": 9, "email": "a@b.c"}))
    assert answer.annotator == "9"
    assert [each.label for each in answers(tmp_path, annotation("dog"), annotation("owl", by=8))] == ["dog", "owl"]


@pytest.mark.parametrize("annotations", [[], [annotation("dog", cancelled=True)], [annotation()]])
def test_a_cancelled_or_empty_annotation_is_an_image_without_a_label(tmp_path, annotations):
    assert [each[1:3] for each in answers(tmp_path, *annotations)] == [(IMAGE, "")]


def test_a_cancelled_annotation_beside_another_does_not_count(tmp_path):
    first, second = answers(tmp_path, annotation("dog", cancelled=True), annotation("owl"))
    assert (first.label, first.missing) == ("", "cancelled") and (second.label, second.missing) == ("owl", "")


def test_only_choices_of_our_control_count(tmp_path):
    other = {"from_name": "quality", "to_name": "image", "type": "choices", "value": {"choices": ["blurred"]}}
    given = annotation("dog")
    given["result"].insert(0, other)
    assert [each.label for each in answers(tmp_path, given)] == ["dog"]
    assert [each.label for each in answers(tmp_path, annotation() | {"result": [other]})] == [""]
    assert smallest(tmp_path, quality="blurred", label="dog")[0].label == "dog"


def test_a_choice_that_is_no_text_is_refused_with_the_task(tmp_path):
    for call in (lambda: answers(tmp_path, annotation(1)), lambda: smallest(tmp_path, label=[{"choices": [1]}])):
        message = refusal(call)
        assert "task 12" in message and "the choice 1 is no text" in message


def test_annotations_of_nobody_named_are_of_several_within_a_task_and_of_one_in_two_tasks(tmp_path):
    by = [each.annotator for each in answers(tmp_path, annotation("dog", by=None), annotation(by=None), annotation("owl", by=None))]
    assert by[0] == "" and by[2] != ""
    doubled = [made() | {"id": number, "annotations": [annotation("dog", by=None)]} for number in (1, 2)]
    (tmp_path / "export.json").write_text(json.dumps(doubled))
    assert [each.annotator for each in read(tmp_path / "export.json", "labels file")] == ["", ""]


def test_json_min_is_read_and_its_own_id_is_not_taken_for_the_images(tmp_path):
    (answer,) = smallest(tmp_path, label="dog", annotator=7)
    assert answer[1:4] == (IMAGE, "dog", "7") and "min.json, task 12" in answer.where
    assert smallest(tmp_path)[0].label == smallest(tmp_path, label=None)[0].label == ""


def test_several_classes_for_an_image_are_refused_with_the_task(tmp_path):
    message = refusal(answers, tmp_path, annotation("dog", "owl"))
    assert "task 12" in message and "2 classes (dog, owl)" in message
    assert "task 12" in refusal(lambda: smallest(tmp_path, label={"choices": ["dog", "owl"]}))


def test_tasks_of_something_else_are_refused(tmp_path):
    assert "task 12: there is no image_id" in refusal(lambda: answers(tmp_path, data={"image": "/data/upload/1/a.png"}))


@pytest.mark.parametrize("text", ["[", "[1]", "7", '[{"id": 1, "data": {"image_id": "a"}, "annotations": [{"id": 1}]}]', "\xff"])
def test_a_file_that_is_no_export_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    assert "a.json cannot be read as an export of Label Studio" in refusal(read, tmp_path / "a.json", "labels file")


def test_a_single_task_and_a_byte_order_mark_are_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(made() | {"annotations": [annotation("owl")]}), encoding="utf-8-sig")
    assert read(tmp_path / "a.json", "labels file")[0].label == "owl"


@pytest.mark.parametrize("choices", [{"dog": False}, "d", None, 3])
def test_choices_that_are_no_list_are_no_answer(tmp_path, choices):
    task = made() | {"annotations": [{"result": [{"from_name": "label", "value": {"choices": choices}}]}]}
    (tmp_path / "a.json").write_text(json.dumps([task]))
    assert "not a list" in refusal(read, tmp_path / "a.json", "labels file")
