"""rows.py: texts come back as they were, also from what spreadsheets make of a CSV file."""
import os

import pytest

from conftest import read_rows
from hybridrepair.base.rows import rows_in, write_rows
from hybridrepair.base.text import text_of

ROWS = [{"a": "1,5", "b": 'say "no"; no'}, {"a": "two\nlines", "b": "größer"}]
PLAIN = 'a,b\n"1,5","say ""no""; no"\n"two\nlines",größer\n'
SEMICOLON = 'a;b\r\n1,5;"say ""no""; no"\r\n"two\nlines";größer\r\n;\r\n'
TAB = 'a\tb\r\n1,5\t"say ""no""; no"\r\n"two\nlines"\tgrößer\r\n'


def test_texts_come_back_from_a_csv_file_as_they_were(tmp_path):
    write_rows(tmp_path / "new" / "file.csv", ("a", "b"), ROWS)
    assert read_rows(tmp_path / "new" / "file.csv") == ROWS and read_rows(tmp_path / "none.csv") == []
    assert (tmp_path / "new" / "file.csv").read_text(encoding="utf-8") == PLAIN


def test_a_name_that_is_not_utf_8_is_written_as_the_text_of_it(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_rows(tmp_path / "file.csv", ["a"], [{"a": name}])
    assert read_rows(tmp_path / "file.csv") == [{"a": text_of(name)}]


@pytest.mark.parametrize("content, ours", [
    (PLAIN.encode(), True), (PLAIN.encode("utf-8-sig"), False), (PLAIN.replace("\n", "\r\n").encode(), False),
    (SEMICOLON.encode("utf-8-sig"), False), (SEMICOLON.encode("utf-16"), False), (TAB.encode("utf-16"), False), (TAB.encode(), False)],
    ids=["ours", "mark", "CRLF", "semicolons", "UTF-16 semicolons", "UTF-16 tabs", "tabs"])
def test_what_a_spreadsheet_saved_in_unicode_is_read_as_it_was(content, ours):
    columns, rows, same, fault = rows_in(content)
    assert [{name: text.replace("\r\n", "\n") for name, text in row.items()} for row in rows] == ROWS
    assert columns == ["a", "b"] and same == ours and fault == ""


def test_another_encoding_is_a_guess_and_said_to_be_one():
    _, rows, ours, fault = rows_in(SEMICOLON.encode("cp1252"))
    assert rows == ROWS and not ours and fault == "is no CSV file in UTF-8"


@pytest.mark.parametrize("text, rows, fault", [
    ("a,b\n1,2\n3\n", [{"a": "1", "b": "2"}], "row 2 has not as many cells"),
    ("a,b\n1,2,3\n4,5\n", [{"a": "4", "b": "5"}], "row 1 has"), ("a,a\n1,2\n", [{"a": "2"}], "has the column a twice"),
    ('a,b\n"1,2\n3,4\n', [], "row 1 has not as many cells"),
    ("a\n" + "x" * 200_000, [], "is no CSV file (field larger than")])
def test_of_a_damaged_file_the_whole_rows_are_read_and_the_damage_is_told(text, rows, fault):
    found = rows_in(text.encode())
    assert found.rows == rows and fault in found.fault and not found.ours


@pytest.mark.parametrize("content", [b"", b"\n\n", b"a,b\n"])
def test_a_file_without_rows_has_none(content):
    assert rows_in(content)[1:] == ([], True, "")
