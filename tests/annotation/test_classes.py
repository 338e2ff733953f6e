"""classes.py: a label means the class of its name, also where a spreadsheet has changed it, and nothing is guessed."""
import pytest

from hybridrepair.annotation.classes import number_by_name

ANIMALS, SIGNS = ["cat", "dog", "owl"], ["000", "001", "002", "010"]


@pytest.mark.parametrize("label, names, number", [
    ("owl", ANIMALS, 2), (" owl ", ANIMALS, 2), ("1", ANIMALS, 1), ("1.0", ANIMALS, 1),
    ("001", SIGNS, 1), ("1", SIGNS, 1), ("2", SIGNS, 2), ("0", SIGNS, 0), ("10", SIGNS, 3), ("1.0", SIGNS, 1),
    ("1", ["1", "0", "nine"], 0), ("0", ["1", "0", "nine"], 1), ("01", ["1", "01"], 1), ("120000", ["12e4", "a"], 0),
    ("TRUE", ["true", "false"], 0), (" Cat ", ANIMALS, 0), ("a", ["A", "a"], 1), ("Ü", ["a", "ü "], 1),
    ("stop ", ["stop ", "stop"], 0), ("stop", ["stop ", "stop"], 1), ("stop", ["stop ", "go"], 0),
    ("cafe\u0301", ["dog", "caf\u00e9"], 1), (" CAFE\u0301", ["dog", "caf\u00e9"], 1), ("cafe\u0301", ["caf\u00e9", "cafe\u0301"], 1)])
def test_a_label_names_a_class(label, names, number):
    assert number_by_name(label, names) == number


@pytest.mark.parametrize("label, names, part", [
    ("bird", ANIMALS, "'bird' is no class (a spreadsheet may have changed it); use one of cat, dog, owl"),
    ("TRUE", ["true", "True"], "no class"), ("3", ANIMALS, "no class"),
    ("-1", ANIMALS, "no class"), ("1.5", ANIMALS, "no class"), ("3", SIGNS, "'3' is ambiguous"), ("2", ["1", "0", "nine"], "'nine'"),
    ("1", ["1", "01", "a"], "any of the classes 1, 01"), ("4", SIGNS, "no class"), ("nan", ANIMALS, "no class"),
    ("1_0", SIGNS, "no class")])
def test_what_names_none_or_may_name_several_is_refused(label, names, part):
    with pytest.raises(ValueError) as caught:
        number_by_name(label, names)
    assert part in str(caught.value)


def test_where_no_spreadsheet_was_a_number_is_only_a_name():
    assert number_by_name("1", ["01", "1"], spreadsheet=False) == 1
    for names in (ANIMALS, SIGNS):
        with pytest.raises(ValueError, match="no class"):
            number_by_name("1", names, spreadsheet=False)
    with pytest.raises(ValueError, match="'Cat' is no class; use"):
        number_by_name("Cat", ANIMALS, spreadsheet=False)


def test_many_classes_are_not_all_listed():
    with pytest.raises(ValueError, match=r"c8, c9, \.\.\.$"):
        number_by_name("x", [f"c{i}" for i in range(12)])
