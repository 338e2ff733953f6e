"""spreadsheet.py: files that went through a spreadsheet are read as they were meant, and texts survive one."""
import csv

import pytest

from conftest import refusal
from hybridrepair.annotation.spreadsheet import protected, read, unprotected


def rows_of(folder, content: bytes):
    (folder / "a.csv").write_bytes(content)
    return read(folder / "a.csv", "labels file")


@pytest.mark.parametrize("text", ["cat", "=1+1", "+a", "-1", "@x", "'=x", "''-1", "'cat", "001", "'001", "3", "'3", "0", "1.50", "12e4",
                                  "1234567890123456", "", " ", "1_0", "\tx", "field/=1.png"])
def test_a_text_reads_back_as_it_was(text):
    assert unprotected(protected(text)) == text


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-a", "@a", "001", "12e4", "1234567890123456", "1.0"])
def test_what_a_spreadsheet_would_compute_or_round_is_protected(text):
    assert protected(text) == f"'{text}"


@pytest.mark.parametrize("text", ["cat", "3", "0", "10", "field/001.png", "#340", "", "a=b", "12e4f"])
def test_what_a_spreadsheet_leaves_alone_is_written_as_it_is(text):
    assert protected(text) == text


@pytest.mark.parametrize("content", [
    b"id,label\na,cat\nb,dog\n", b"\xef\xbb\xbfid,label\r\na,cat\r\nb,dog\r\n", b"id;label\r\na;cat\r\nb;dog\r\n",
    b"id\tlabel\na\tcat\nb\tdog\n", b'"id","label"\n"a","cat"\n"b","dog"', b" id , label \na,cat\nb,dog\n"],
    ids=["plain", "mark and CRLF", "semicolons", "tabs", "quotes", "spaces around columns"])
def test_the_forms_that_spreadsheets_write_are_one(tmp_path, content):
    assert rows_of(tmp_path, content) == [(2, {"id": "a", "label": "cat"}), (3, {"id": "b", "label": "dog"})]


def test_lines_are_those_of_the_file_with_empty_rows_and_texts_of_several_lines(tmp_path):
    content = b'id,label\n"a\nb",cat\n\n,\nc,"say ""hi"", you"\n'
    assert rows_of(tmp_path, content) == [(2, {"id": "a\nb", "label": "cat"}), (6, {"id": "c", "label": 'say "hi", you'})]


def test_cells_that_are_missing_are_empty_and_protection_is_taken_off(tmp_path):
    assert rows_of(tmp_path, b"id,label,note\n'=a,'001\n") == [(2, {"id": "=a", "label": "001", "note": ""})]


@pytest.mark.parametrize("content, parts", [
    ("id,label\na,größer\n".encode("latin-1"), ["not in UTF-8", "encoding UTF-8"]),
    ("id,label\na,cat\n".encode("utf-16"), ["not in UTF-8"]),
    (b"id,label\na,cat\nb,dog,owl\n", ["line 3", "more cells than columns"]),
    (b'id,label\na,cat\nb,"dog\n', ["after line 2"]),
    (b"id,label,label\na,cat,dog\n", ["column label twice"])])
def test_a_file_that_cannot_be_understood_is_refused(tmp_path, content, parts):
    message = refusal(rows_of, tmp_path, content)
    assert "a.csv" in message and all(part in message for part in parts), message


def test_what_is_written_is_read(tmp_path):
    texts = ["=zero", "001", "say \"no\"", "a;b,c", "Ж漢"]
    with open(tmp_path / "b.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["label"], *([protected(text)] for text in texts)])
    assert [row["label"] for _, row in read(tmp_path / "b.csv", "labels file")] == texts
