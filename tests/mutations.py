"""Damage to files: of their bytes, as disks and networks do it, and of what they hold, as programs and people do it; all by a seed."""
import csv
import io
import json
import random

DEPTH = 100_000  # of nested lists: beyond what any parser recurses
STRANGE = (None, True, -1, 0, 1e308, 10 ** 30, "", "x", "\ud800", "a\nb", "\0", [], {}, [[]], {"a": 1}, float("nan"), float("inf"))


def place(rng: random.Random, content: bytes | bytearray) -> int:
    """A position: half of them near an end, where headers and tables of contents are."""
    n = max(1, len(content))
    return rng.randrange(n) if rng.random() < 0.5 else rng.choice((rng.randrange(min(n, 256)), n - 1 - rng.randrange(min(n, 256))))


def block(rng: random.Random, content: bytes | bytearray) -> tuple[int, int]:
    """Begin and end of a part of it."""
    begin = place(rng, content)
    return begin, min(len(content), begin + rng.choice((1, 4, 16, 64, 512, 4096)))


def of_bytes(rng: random.Random, content: bytes) -> bytes:
    """The content of a file with one damage, or none where it had no effect."""
    made, kind = bytearray(content), rng.randrange(9)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            made[place(rng, made)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for _ in range(rng.choice((1, 2, 4))):
            made[place(rng, made)] = rng.choice((0, 0xff, 0x7f, 0x80, *b'"\',;{}[]:0-\n', rng.randrange(256)))
    elif kind == 2:
        del made[rng.choice((0, rng.randrange(len(made)), place(rng, made))):]
    elif kind == 3:
        begin, end = block(rng, made)
        made[begin:begin] = made[begin:end] * rng.choice((1, 1, 2, 50))
    elif kind == 4:
        begin, end = block(rng, made)
        made[begin:end] = bytes(end - begin)
    elif kind == 5:
        begin, end = block(rng, made)
        del made[begin:end]
    elif kind == 6:
        first, second = sorted((block(rng, made), block(rng, made)))
        if first[1] <= second[0]:
            made[second[0]:second[1]], made[first[0]:first[1]] = made[first[0]:first[1]], made[second[0]:second[1]]
    elif kind == 7:
        made += bytes(made) if rng.random() < 0.5 else rng.randbytes(rng.choice((1, 100)))
    else:
        made[:0] = rng.choice((b"\0", b"\xef\xbb\xbf", b"PK\3\4", b"\x93NUMPY", b"[", b"\n", rng.randbytes(16)))
    return bytes(made)


def nodes(value, path: tuple = ()):
    """The paths of all entries within nested dicts and lists."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from nodes(each, (*path, key))


def of_tree(rng: random.Random, value, strange: tuple = STRANGE):
    """Nested dicts and lists, changed in place at one entry: gone, doubled, of another type, exchanged with one beside it, nested."""
    paths = list(nodes(value))
    path = rng.choice(paths)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    key, kind = path[-1], rng.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key], holder[other] = holder[other], holder[key]
    elif kind == 2:
        holder.update({"more": holder[key]}) if isinstance(holder, dict) else holder.insert(key, holder[key])
    elif kind == 3:
        holder[key] = rng.choice(([holder[key]], {"a": holder[key]}, str(holder[key])))
    else:
        holder[key] = rng.choice(strange)
    return value


def of_json(rng: random.Random, content: bytes) -> bytes:
    """A JSON file with one change in what it holds."""
    if rng.random() < 0.1:
        return rng.choice((b"[" * DEPTH, b'{"a":' * DEPTH, b"1" * 10_000, b"NaN", b"null", b'"text"', b"[]", b"{}",
                           content.replace(b":", b":" + b"[" * DEPTH, 1)))
    made = json.dumps(of_tree(rng, json.loads(content)))
    return made.replace('{"', '\n{"').encode("utf-8", "surrogatepass")


def of_csv(rng: random.Random, content: bytes) -> bytes:
    """A CSV file with one change in its rows and cells."""
    rows = list(csv.reader(io.StringIO(content.decode())))
    kind, row = rng.randrange(9), rng.randrange(len(rows))
    if kind == 0:
        rows.insert(rng.randrange(len(rows)), rows[0])  # a header doubled
    elif kind == 1:
        column = rng.randrange(len(rows[0]))
        rows = [[cell for place, cell in enumerate(cells) if place != column] for cells in rows]
    elif kind == 2:
        column = rng.randrange(len(rows[0]))
        rows = [[*cells, cells[column]] for cells in rows]
    elif kind == 3:
        rows[row].pop(rng.randrange(len(rows[row])))
    elif kind == 4:
        one, other = rng.sample(range(len(rows[row])), 2)
        rows[row][one], rows[row][other] = rows[row][other], rows[row][one]
    elif kind == 5:
        rows.append(rows[row])
    elif kind == 6:
        rng.shuffle(rows)
    else:
        rows[row][rng.randrange(len(rows[row]))] = rng.choice((
            "", "x" * 10 ** 6, "9" * 5000, "nan", "-1", "1e999", "=1+1", "a\nb", "a\0b", '"', "'", "\u202ecat", "None", "0", "1"))
    text = io.StringIO()
    csv.writer(text, delimiter=rng.choice(",,,;\t"), lineterminator=rng.choice(("\n", "\r\n"))).writerows(rows)
    return text.getvalue().encode(rng.choice(("utf-8",) * 5 + ("utf-8-sig", "utf-16", "cp037")), "replace")
