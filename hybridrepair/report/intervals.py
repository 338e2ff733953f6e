"""Confidence intervals of accuracies and of their change, from counts alone."""
from math import sqrt

Z = 1.959963984540054  # of the normal distribution, for 95 %


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval in percent of the share right / n, n > 0. Source: Wilson, JASA 1927 (the score interval)."""
    share, shrink = right / n, 1 + Z * Z / n
    centre = share + Z * Z / (2 * n)
    half = Z * sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return 100 * max((centre - half) / shrink, 0.0), 100 * min((centre + half) / shrink, 1.0)


def paired(fixed: int, broken: int, n: int) -> tuple[float, float]:
    """95 % interval in percentage points of (fixed - broken) / n, the change of accuracy on the same n > 0 images.

    Half an image is added to each cell of the two-by-two table of right and wrong, before and after. Source: Agresti and Min,
    "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 2005.
    """
    n += 2
    difference, changed = (fixed - broken) / n, (fixed + broken + 1) / n
    half = Z * sqrt((changed - difference ** 2) / n)
    return 100 * max(difference - half, -1.0), 100 * min(difference + half, 1.0)
