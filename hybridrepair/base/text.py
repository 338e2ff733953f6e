"""Text that files and terminals can hold, of names that the disk holds."""

LONG = 12_000  # signs of a line at most: twenty paths with what is wrong with each fit


def text_of(name: str) -> str:
    r"""A name as UTF-8 can write it: bytes of a file name that are not UTF-8, which Python holds as half characters, become \udc..."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def line_of(text: str) -> str:
    r"""A text on one line of a terminal: signs that show nothing, end a line, or turn its direction as escapes (\n, \u202e).

    The middle of one that is longer than LONG is left out.
    """
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    return text if len(text) <= LONG else f"{text[:LONG * 3 // 4]} ... {text[-LONG // 4:]}"
