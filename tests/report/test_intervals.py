"""intervals.py: against values computed by hand and printed in the literature."""
import pytest

from hybridrepair.report.intervals import paired, wilson


@pytest.mark.parametrize("right, n, low, high", [
    (81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0, 16.11), (1, 29, 0.61, 17.18),  # Newcombe 1998, table I, method 3
    (5, 10, 23.66, 76.34), (20, 20, 83.89, 100)])
def test_the_interval_of_an_accuracy_is_wilsons(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=0.005)


@pytest.mark.parametrize("fixed, broken, n, low, high", [
    # 12 / 102 -+ 1.96 sqrt((21 / 102 - (12 / 102)^2) / 102) = 0.117647 -+ 1.959964 x 0.043391
    (16, 4, 100, 3.2603, 20.2691),
    # -12 / 102, the other way round
    (4, 16, 100, -20.2691, -3.2603),
    # 0 -+ 1.96 sqrt(1 / 12 / 12)
    (0, 0, 10, -16.3330, 16.3330),
    # 1 / 3 -+ 1.96 sqrt((2 / 3 - 1 / 9) / 3) = 0.333333 -+ 0.843434, cut at 1
    (1, 0, 1, -51.0101, 100)])
def test_the_interval_of_a_change_is_that_of_agresti_and_min(fixed, broken, n, low, high):
    assert paired(fixed, broken, n) == pytest.approx((low, high), abs=5e-4)
