"""Code of the user's: a function in a Python file, named as path/to/file.py:function, that builds a network.

Whoever names such a file runs its code, as with any Python script.
"""
import ast
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

from hybridrepair.base import digests
from hybridrepair.base.errors import UserError, reason_of


def is_builder(name: str) -> bool:
    """Whether `name` is of the form FILE.py:FUNCTION."""
    return ".py:" in name


def file_of(name: str) -> Path:
    """The file that FILE.py:FUNCTION names. UserError if there is none."""
    path = Path(name.rpartition(":")[0])
    if not path.is_file():
        raise UserError(f"there is no file {path}, which {name} names; give the path of a Python file and a function in it")
    return path


def imported(code: bytes) -> Iterator[tuple[int, str]]:
    """The modules that code may import, those among what it imports from them too: dots before the name, and the name.

    None where it is no Python.
    """
    try:
        nodes = [*ast.walk(ast.parse(code))]
    except (SyntaxError, ValueError):  # told where it is run
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((0, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, ".".join(filter(None, (node.module, each.name)))) for each in node.names)


def files_of(name: str) -> dict[Path, bytes]:
    """The content of the file in FILE.py:FUNCTION and of the files beside it and below that it imports. UserError if it is missing."""
    first = file_of(name)
    found: dict[Path, bytes] = {}
    wanted = [first]
    while wanted:
        path = wanted.pop()
        if path not in found and path.is_file():
            found[path] = path.read_bytes()
            for dots, module in imported(found[path]):
                top = first.parent if not dots else Path(*path.parts[:-dots])
                for place in accumulate(module.split("."), Path.joinpath, initial=top):
                    wanted += [place.with_suffix(".py")] if place != top else []
                    wanted += [place / "__init__.py"] if place != first.parent else []
    return {path: found[path] for path in sorted(found, key=lambda path: (path != first, path))}


def code_of(name: str) -> bytes:
    """The content of `files_of`, joined. UserError if the file is missing."""
    return b"".join(files_of(name).values())


def refuse_others(name: str) -> None:
    """UserError where another module comes before one that the file in FILE.py:FUNCTION imports from beside it or below."""
    first, *others = files_of(name)
    importlib.invalidate_caches()
    for file in others:
        if first.parent not in file.parents:
            continue
        top, *rest = file.relative_to(first.parent).parts
        package = first.parent / top / "__init__.py"
        ours, rest = (package, []) if rest and package.is_file() else (file, rest)
        found = place_of(top.removesuffix(".py"), rest)
        if not (os.path.exists(found) and os.path.samefile(found, ours)):
            raise UserError(f"{first} imports {top.removesuffix('.py')}, which is {ours}, but {found} has that name too and comes "
                            "first; rename the former")


def place_of(top: str, rest: list[str]) -> str:
    """Where Python looks for the module `top`, or, where that is a mere folder, for `rest` in the first of its name that has it."""
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # it was made by hand
        spec = None
    if spec is None:
        return f"a module {top} in memory"
    places = [os.path.join(place, *rest) for place in spec.submodule_search_locations or []]
    return spec.origin or next(filter(os.path.exists, places), f"a package {top}")


def builder(name: str) -> Callable:
    """The function that FILE.py:FUNCTION names. UserError if there is no such file or function, or the file cannot be run.

    The file may import what lies beside it, by names that nothing else has.
    """
    path, function = file_of(name), name.rpartition(":")[2]
    place = digests.of(os.fsencode(path.resolve()))[:8]
    spec = importlib.util.spec_from_file_location(f"builder_{path.stem}_{place}", path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent.resolve()))
    try:
        refuse_others(name)
    except UserError:
        sys.path.pop()
        raise
    sys.modules[spec.name] = module  # where dataclasses look for what annotations name
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        del sys.modules[spec.name]
        raise UserError(f"{path} cannot be run ({reason_of(error)}); run it by Python to see where it fails") from error
    made = getattr(module, function, None)
    if not callable(made):
        raise UserError(f"{path} has no function {function!r}; give FILE.py:FUNCTION with one that it defines")
    return made
