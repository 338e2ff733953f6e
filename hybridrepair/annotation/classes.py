"""Classes by the names that annotators write, also those that a spreadsheet has changed."""
from unicodedata import normalize

from hybridrepair.annotation.spreadsheet import number_of


def number_by_name(label: str, names: list[str], spreadsheet: bool = True) -> int:
    """The number of the class that a label names; ValueError with the end of a sentence where there is none, or no single one.

    Spaces around names and the Unicode form of their signs do not count unless they tell names apart. From a spreadsheet the label
    may have other capitals (TRUE for true), where they do not tell names apart, or be a number that equals just one name (1 for 001),
    or, where no name is a number, the class number.
    """
    numbers = [number_of(name) for name in names]
    number = number_of(label) if spreadsheet else None
    same = [name for name, other in zip(names, numbers) if number is not None and other == number]
    if len(same) > 1 and label.strip() == str(number):
        raise ValueError(f"{label!r} may be any of the classes {', '.join(same)}, which a spreadsheet saves alike; answer by sorted "
                         "folders or in Label Studio")
    stripped = [name.strip() for name in names]
    composed = [normalize("NFC", name) for name in stripped]
    for named, text in ((names, label), (names, label.strip()), (stripped, label), (stripped, label.strip()),
                        (composed, normalize("NFC", label.strip()))):
        if named.count(text) == 1:
            return named.index(text)
    folded, text = [name.casefold() for name in composed] if spreadsheet else [], normalize("NFC", label.strip()).casefold()
    if folded.count(text) == 1:
        return folded.index(text)
    if len(same) == 1:
        return names.index(same[0])
    if number is not None and number in range(len(names)):
        if not any(other is not None for other in numbers):
            return int(number)
        raise ValueError(f"{label!r} is ambiguous: no class has that name, and as a class number it would be {names[int(number)]!r}, "
                         "while other classes have numbers as names; write the name of the class")
    changed = " (a spreadsheet may have changed it)" if spreadsheet else ""
    raise ValueError(f"{label!r} is no class{changed}; use one of {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}")
