"""Text that files and terminals can hold, of names that the disk holds."""


def text_of(name: str) -> str:
    r"""A name as UTF-8 can write it: bytes of a file name that are not UTF-8, which Python holds as half characters, become \udc..."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
