"""text.py: names that are not UTF-8 become text that is, and others stay."""
import os

import pytest

from hybridrepair.base.text import text_of


@pytest.mark.parametrize("name", ["cat", "caf\u00e9", "\u732b", "a$b c", r"a\udce9", ""])
def test_a_name_that_utf_8_can_write_stays(name):
    assert text_of(name) == name


def test_bytes_that_are_not_utf_8_become_escapes_of_their_own():
    names = [text_of(os.fsdecode(name)) for name in (b"caf\xe9", b"caf\xe8", b"caf\xc3\xa9")]
    assert names == [r"caf\udce9", r"caf\udce8", "caf\u00e9"] and "".join(names).encode()
