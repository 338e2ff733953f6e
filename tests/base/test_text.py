"""text.py: names that are not UTF-8 become text that is, and others stay."""
import os

import pytest

from hybridrepair.base.text import LONG, line_of, text_of


@pytest.mark.parametrize("name", ["cat", "caf\u00e9", "\u732b", "a$b c", r"a\udce9", ""])
def test_a_name_that_utf_8_can_write_stays(name):
    assert text_of(name) == name


def test_bytes_that_are_not_utf_8_become_escapes_of_their_own():
    names = [text_of(os.fsdecode(name)) for name in (b"caf\xe9", b"caf\xe8", b"caf\xc3\xa9")]
    assert names == [r"caf\udce9", r"caf\udce8", "caf\u00e9"] and "".join(names).encode()


def test_a_line_shows_each_sign_that_would_end_it_or_turn_it_and_leaves_out_the_middle_of_a_long_one():
    assert line_of("größe 漢 'x'") == "größe 漢 'x'"
    assert line_of("a\nb\0\x1b\u202ec\ud800") == r"a\nb\x00\x1b\u202ec\ud800"
    long = line_of("a" * 10 ** 6 + "end")
    assert len(long) < LONG + 10 and long.startswith("aaa") and " ... " in long and long.endswith("aend")
