"""Functions named as FILE.py:FUNCTION."""
import sys
import types

import pytest

from hybridrepair.base.builders import builder, code_of, is_builder
from hybridrepair.base.errors import UserError


def test_a_builder_is_named_by_file_and_function():
    assert is_builder("nets/mine.py:build") and not is_builder("mine.py") and not is_builder("timm:resnet18")


def test_the_function_is_returned_and_its_file_may_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("answer = 42\n")
    (tmp_path / "mine.py").write_text("import neighbour_of_mine\ndef build(n):\n    return neighbour_of_mine.answer + n\n")
    assert builder(f"{tmp_path}/mine.py:build")(1) == 43


@pytest.mark.parametrize("neighbour", ["layers_of_two.py", "layers_of_two/__init__.py", "layers_of_two/block.py"])
def test_a_neighbour_that_another_module_comes_before_is_refused_and_names_both(tmp_path, monkeypatch, neighbour):
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in "ab":
        (tmp_path / name / neighbour).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / neighbour).write_text(f"made = '{name}'\n")
        imported = "layers_of_two.block as layers" if "block" in neighbour else "layers_of_two as layers"
        (tmp_path / name / "net.py").write_text(f"def build():\n    import {imported}\n    return layers.made\n")
    first = builder(f"{tmp_path}/a/net.py:build")
    with pytest.raises(UserError, match=f"{tmp_path}/b/net.py imports layers_of_two, which is {tmp_path}/b/{neighbour}, but "
                                        f"{tmp_path}/a/{neighbour} has that name too"):
        builder(f"{tmp_path}/b/net.py:build")
    assert first() == "a"
    for name in [name for name in sys.modules if name.startswith("layers_of_two")]:
        del sys.modules[name]


def test_two_files_may_share_a_folder_s_name_and_even_a_file_of_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, block in (("a", "one"), ("b", "two")):
        (tmp_path / name / "parts_of_two").mkdir(parents=True)
        (tmp_path / name / "parts_of_two" / f"{block}.py").write_text(f"made = '{name}'\n")
        (tmp_path / name / "net.py").write_text(f"from parts_of_two.{block} import made\ndef build():\n    return made\n")
    (tmp_path / "a" / "other.py").write_text((tmp_path / "a" / "net.py").read_text())
    assert [builder(f"{tmp_path}/{name}.py:build")() for name in ("a/net", "b/net", "a/other")] == ["a", "b", "a"]


def test_a_neighbour_may_not_have_the_name_of_a_module_of_this_project(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mymodels.py").touch()
    (tmp_path / "net.py").write_text("import mymodels\ndef build(): pass\n")
    before = [*sys.path]
    with pytest.raises(UserError, match="mymodels.*rename the former"):
        builder(f"{tmp_path}/net.py:build")
    assert sys.path == before
    (tmp_path / "made_by_hand.py").touch()
    (tmp_path / "net.py").write_text("import made_by_hand\ndef build(): pass\n")
    monkeypatch.setitem(sys.modules, "made_by_hand", types.ModuleType("made_by_hand"))
    with pytest.raises(UserError, match="a module made_by_hand in memory"):
        builder(f"{tmp_path}/net.py:build")


def test_two_files_of_a_name_may_hold_dataclasses_whose_types_are_told_later(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text("from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\n"
                                                f"class Net:\n    size: int = {ord(name)}\n")
    first, second = (builder(f"{tmp_path / name / 'net.py'}:Net") for name in "ab")
    assert (first().size, second().size) == (97, 98)


def test_the_code_is_that_of_the_file_and_of_all_that_it_imports_beside_it(tmp_path):
    files = {"mine.py": "import torch, blocks.deep\nfrom parts import head as h\n", "parts.py": "import mine\n",
             "more.py": "b\n",
             "blocks/deep.py": "from . import flat\nfrom .low.near import here\n", "blocks/__init__.py": "import more\n",
             "blocks/flat.py": "c\n", "blocks/low/__init__.py": "d\n", "blocks/low/near.py": "from ..upper import e\n",
             "blocks/upper.py": "e = 1\n", "flat.py": "not this one\n", "other.py": "import parts\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = code_of(f"{tmp_path}/mine.py:build")
    assert before.startswith(files["mine.py"].encode())
    for name in files:
        (tmp_path / name).write_text(files[name] + "# changed\n")
        assert (code_of(f"{tmp_path}/mine.py:build") != before) == (name not in ("other.py", "flat.py")), name
        (tmp_path / name).write_text(files[name])
    (tmp_path / "mine.py").write_text("def build(:")
    assert code_of(f"{tmp_path}/mine.py:build") == b"def build(:"  # told where it is run


@pytest.mark.parametrize("content, message", [
    (None, "there is no file"), ("import no_such_module_at_all", "cannot be run \\(ModuleNotFoundError"),
    ("def other(): pass", "no function 'build'"),
    ("build = 3", "no function 'build'"), ("def build(:", "cannot be run \\(SyntaxError")])
def test_what_cannot_be_built_is_one_sentence(tmp_path, content, message):
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UserError, match=message):
        builder(f"{tmp_path}/mine.py:build")
