"""Details of the cells of a table: what each trained on, what it fixed and broke, and what it took."""
from collections.abc import Callable
from statistics import fmean, stdev

import pandas as pd

from hybridrepair.run.comparison import FACETS, MISSING, names_of, order_of, shown

COLUMNS: dict[str, Callable[[pd.DataFrame], str]] = {  # and what is shown of the runs of a cell
    "n": lambda runs: str(len(runs)),
    "before": lambda runs: spread(runs["acc_before"] if runs["acc_before"].nunique() > 1 else runs["acc_before"][:1]),
    "after": lambda runs: spread(runs["acc_after"]),
    "fixed": lambda runs: mean(runs["fixed"], ",.0f"),
    "broken": lambda runs: mean(runs["broken"], ",.0f"),
    "annotated": lambda runs: mean(runs["n_annotated"], ",.0f"),
    "propagated": lambda runs: mean(runs["n_propagated"], ",.0f"),
    "right (%)": lambda runs: mean(runs["propagation_acc"], ".1f"),
    "tau": lambda runs: mean(runs["tau"], ".3f"),
    "unlabelled": lambda runs: mean(runs["n_unlabelled"], ",.0f"),
    "seconds": lambda runs: mean(pd.to_numeric(runs["seconds_total"], errors="coerce"), ",.0f"),
    "precision": lambda runs: dict(runs["settings"].iloc[0]).get("precision", "float32"),
    "device": lambda runs: " / ".join(sorted(set(runs["device"]) - {""})) or MISSING,
}
CAPTION = ("T2 accuracy (%) before and after repair: mean ± standard deviation over n seeds; means of T2 images fixed and broken, of "
           "images annotated, of labels propagated and the share of them that is right, of tau, of images trained on without a label, "
           "and of seconds")


def details_of(runs: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """A line of texts for each cell, in the order of the table, and how many of its columns are names."""
    differ = [facet for facet in FACETS if runs[facet].nunique() > 1]
    rows = [*zip(runs["solution"], runs["settings"])]
    names = names_of(sorted({*rows}, key=order_of))
    places = {row: place for place, row in enumerate(names)}
    lines = []
    for _, cell in runs.assign(place=[places[row] for row in rows]).groupby([*FACETS, "place"]):
        first = cell.iloc[0]
        lines.append({facet: shown([facet], [first[facet]]) for facet in differ}
                     | {"solution": names[first["solution"], first["settings"]]} | {name: of(cell) for name, of in COLUMNS.items()})
    return pd.DataFrame(lines), len(differ) + 1


def mean(values: pd.Series, form: str) -> str:
    """That of the numbers there are; MISSING without any."""
    there = values.dropna()
    return format(fmean(there), form) if len(there) else MISSING


def spread(values: pd.Series, form: str = ".2f") -> str:
    """Mean, and standard deviation (n - 1) where there are several."""
    return mean(values, form) + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
