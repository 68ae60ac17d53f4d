from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agito.record import Rate, clopper_pearson, wilson
from agito.record.intervals import beta_cdf


def at_least(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Binomial(n, p), term by term."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def test_the_ends_of_the_exact_interval_have_their_closed_form() -> None:
    # With no success (1 - high)^n = 0.025; with nothing but successes low^n = 0.025.
    assert clopper_pearson(0, 20) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20), abs=1e-12))
    assert clopper_pearson(20, 20) == (pytest.approx(0.025 ** (1 / 20), abs=1e-12), 1.0)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_it_agrees_with_a_published_value() -> None:
    # Agresti and Coull, 1998, and every textbook table: 8 of 10 gives (0.4439, 0.9748).
    assert clopper_pearson(8, 10) == (pytest.approx(0.4439, abs=5e-5), pytest.approx(0.9748, abs=5e-5))


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_it_inverts_the_binomial_tails(case: tuple[int, int]) -> None:
    k, n = case
    low, high = clopper_pearson(k, n)
    if k > 0:
        assert at_least(k, n, low) == pytest.approx(0.025, rel=1e-9)
    if k < n:
        assert 1 - at_least(k + 1, n, high) == pytest.approx(0.025, rel=1e-9)


def test_it_holds_for_many_attempts() -> None:
    # Against the normal approximation, which is good to a few 1e-6 here.
    low, high = clopper_pearson(500_000, 1_000_000)
    assert low == pytest.approx(0.5 - 1.959964 * 0.0005, abs=2e-6)
    assert high == pytest.approx(0.5 + 1.959964 * 0.0005, abs=2e-6)


def test_the_incomplete_beta_of_a_uniform_and_of_its_mirror() -> None:
    assert beta_cdf(0.3, 1, 1) == pytest.approx(0.3, abs=1e-15)
    assert beta_cdf(0.3, 2, 1) == pytest.approx(0.09, abs=1e-15)
    assert beta_cdf(0.3, 2.5, 4) == pytest.approx(1 - beta_cdf(0.7, 4, 2.5), abs=1e-14)
    assert (beta_cdf(-1, 2, 2), beta_cdf(2, 2, 2)) == (0.0, 1.0)


def test_wilson_solves_its_own_equation() -> None:
    # (p - x)^2 = z^2 x (1 - x) / n at both ends.
    low, high = wilson(40, 50)
    for x in (low, high):
        assert (0.8 - x) ** 2 == pytest.approx(1.959963985**2 * x * (1 - x) / 50, rel=1e-9)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 30)[0] == pytest.approx(0.0, abs=1e-15)


def test_the_rate_of_nothing_is_not_a_number_and_impossible_counts_are_refused() -> None:
    assert math.isnan(Rate(successes=0, num=0).success)
    assert Rate(successes=3, num=4).success == 0.75
    with pytest.raises(ValueError, match="successes=5 of num=4"):
        Rate(successes=5, num=4)
