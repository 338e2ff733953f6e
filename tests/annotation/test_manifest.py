"""manifest.py: a choice is written and comes back as it was, wherever its images stand by then; what differs is named."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import field_of, refusal
from hybridrepair.annotation.manifest import Manifest, Origin, beside, check, listed, manifest_of, selection_of
from hybridrepair.selection.clustering import NOISE, Regions
from hybridrepair.selection.solutions import Selection, one_by_one

ORIGIN = Origin({"file": "a.t7", "digest": "9f"}, ["cat", "dog"], {"n": 6, "digest": "77"}, {"solution": "hybrid", "seed": "10"})
# images 4 and 1 stand for regions 7 (2, 4, 5) and 3 (0, 1), and image 3 for itself
CHOSEN = Selection(np.array([4, 1, 3]), np.array([7, 3, NOISE]), np.array([1, 1, 4, 3, 4, 4]),
                   Regions(torch.tensor([3, 3, 7, NOISE, 7, 7]), torch.arange(8)))


def manifest(folder, dataset, selection=CHOSEN) -> Manifest:
    """The manifest as it is read after it was written."""
    manifest_of(dataset, selection, ORIGIN).write(folder / "manifest.json")
    return Manifest.read(folder / "manifest.json")


@pytest.mark.parametrize("files", [True, False])
def test_a_choice_comes_back_with_its_regions_numbered_in_its_order(tmp_path, files):
    dataset = field_of(tmp_path, 6, files=files)
    made = manifest(tmp_path, dataset)
    assert made.origin == ORIGIN and made.path == tmp_path / "manifest.json"
    annotated, region, source, regions = selection_of(made, dataset)
    assert annotated.tolist() == [4, 1, 3] and region.tolist() == [0, 1, NOISE] and source.tolist() == CHOSEN.source.tolist()
    assert regions.label.tolist() == [1, 1, 0, NOISE, 0, 0] and regions.representative.tolist() == [4, 1]


def test_a_choice_of_single_images_has_no_regions(tmp_path):
    dataset = field_of(tmp_path, 3)
    annotated, region, source, regions = selection_of(manifest(tmp_path, dataset, one_by_one(np.array([2, 0]), 3)), dataset)
    assert annotated.tolist() == [2, 0] and region.tolist() == [NOISE] * 2 and source.tolist() == [0, -1, 2] and regions is None


def test_images_that_were_added_shift_nothing(tmp_path):
    dataset = field_of(tmp_path, 6, files=False)
    made = manifest(tmp_path, dataset)
    images = np.concatenate([dataset.images[:2] + 100, dataset.images])
    later = replace(dataset, images=images, split={"pool": np.arange(8)})
    annotated, _, source, _ = selection_of(made, later)
    assert annotated.tolist() == [6, 3, 5] and source.tolist() == [-1, -1, 3, 3, 6, 5, 6, 6]


def test_a_member_that_is_gone_gets_no_label_and_an_image_to_be_annotated_is_missed(tmp_path, capsys):
    dataset = field_of(tmp_path, 6)
    made = manifest(tmp_path, dataset)
    (tmp_path / "field" / "5.png").write_bytes(b"another")
    assert selection_of(made, dataset).source.tolist() == [1, 1, 4, 3, 4, -1]
    assert "1 images of labelled regions" in (out := capsys.readouterr().out) and "field/5.png" in out
    assert "image field/1.png" in refusal(selection_of, made, replace(dataset, split={"pool": np.array([0, 2, 3, 4, 5])}))
    (tmp_path / "field" / "4.png").write_bytes(b"another too")
    message = refusal(selection_of, made, dataset)
    assert "image field/4.png" in message and "was changed" in message


# where it lies

def test_it_is_found_beside_answers_in_their_folder_or_where_it_is_said_to_be(tmp_path):
    dataset, place = field_of(tmp_path, 6), tmp_path / "to_label"
    place.mkdir()
    manifest(place, dataset)
    assert beside(place / "a.csv", None) == beside(place, None) == beside(place / "folders", None) == Manifest.read(
        place / "manifest.json")
    assert beside(tmp_path / "a.csv", None) is None
    assert beside(tmp_path / "a.csv", str(place)) == beside(tmp_path / "a.csv", str(place / "manifest.json")) is not None


def test_one_that_is_damaged_missing_or_of_another_version_is_refused_and_another_programs_is_none(tmp_path):
    path = tmp_path / "manifest.json"
    for text in ("{", '{"format": "hybridrepair questions 1", "images": []}'):
        path.write_text(text)
        assert "no whole manifest" in refusal(beside, tmp_path / "a.csv", None)
    path.write_text(json.dumps({"format": "hybridrepair questions 2"}))
    assert "reads hybridrepair questions 1" in refusal(beside, tmp_path / "a.csv", None)
    path.write_text(json.dumps({"name": "web app", "icons": []}))
    assert beside(tmp_path / "a.csv", None) is None
    assert "no manifest of selection.py" in refusal(beside, tmp_path / "a.csv", str(path))
    assert "no whole manifest" in refusal(beside, tmp_path / "a.csv", str(tmp_path / "none.json"))


# what it was made with

@pytest.mark.parametrize("now, parts", [
    (ORIGIN._replace(checkpoint={"file": "b.t7", "digest": "aa"}), ["the checkpoint a.t7 (9f) instead of b.t7 (aa)"]),
    (ORIGIN._replace(classes=["dog", "cat"]), ["the classes cat, dog instead of dog, cat"]),
    (ORIGIN._replace(settings={"solution": "gini", "seed": "10"}), ["solution hybrid instead of gini"]),
    (ORIGIN._replace(settings={"solution": "hybrid", "seed": "10", "labelled": "3:a"}), ["labelled not given instead of 3:a"])])
def test_what_differs_is_named_in_one_sentence(tmp_path, now, parts):
    made = manifest(tmp_path, field_of(tmp_path, 6))
    message = refusal(check, made, now)
    assert "manifest.json was made with" in message and all(part in message for part in parts)


def test_another_place_of_the_checkpoint_is_no_difference_and_another_pool_or_seed_is_told(tmp_path, capsys):
    made = manifest(tmp_path, field_of(tmp_path, 6))
    check(made, ORIGIN._replace(checkpoint={"file": "moved.t7", "digest": "9f"}))
    assert capsys.readouterr().out == ""
    check(made, ORIGIN._replace(pool={"n": 7, "digest": "78"}, settings={"solution": "hybrid", "seed": "20"}))
    out = capsys.readouterr().out
    assert "6 images, now 7" in out and "seed 10, now it is 20" in out


def test_of_many_names_the_first_are_listed():
    assert listed(["a", "b"]) == "a, b" and listed(["a", "b", "c"], 2) == "a, b and 1 more"


@pytest.mark.parametrize("change, why", [
    (lambda content: content.update(regions=[0, -2, -1]), "not numbered from 0 to 1"),
    (lambda content: content.update(regions=[1, 0, -1]), "not numbered"),
    (lambda content: content.update(regions=[0, 1]), "3 entries, with 2 regions"),
    (lambda content: content["images"].append(content["images"][0]), "3 different images by 4 entries"),
    (lambda content: content["members"].reverse(), "field/4.png is not among the members of its region 0"),
    (lambda content: content["members"][1].append(content["members"][0][0]), "an image is in two regions"),
    (lambda content: content["images"][0].__setitem__(0, 4), "no pair of id and digest"),
    (lambda content: content["images"].__setitem__(0, "ab"), "no pair of id and digest"),
    (lambda content: content["origin"]["checkpoint"].pop("digest"), "does not tell checkpoint"),
    (lambda content: content["origin"].update(classes=[1]), "does not tell checkpoint"),
    (lambda content: content.pop("members"), "members")])
def test_a_manifest_that_would_give_other_labels_is_refused(tmp_path, change, why):
    dataset, path = field_of(tmp_path, 6), tmp_path / "manifest.json"
    manifest(tmp_path, dataset)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert "manifest.json is no whole manifest" in (message := refusal(Manifest.read, path)) and why in message
