import numpy as np
import pytest
from scipy import stats

from simulations.distributions import CANDIDATES

TRUTHS = {
    "GenNorm": stats.gennorm(0.6),
    "double Weibull": stats.dweibull(0.7),
    "Student-t": stats.t(3.0),
    "Laplace": stats.laplace(),
    "normal": stats.norm(),
}


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_each_finds_the_distribution_that_was_drawn_from(name: str, scale: float) -> None:
    x = TRUTHS[name].rvs(20_000, random_state=0)

    model = CANDIDATES[name](x * scale)

    q = np.array([0.01, 0.1, 0.4, 0.7, 0.99])
    np.testing.assert_allclose(model.ppf(q) / scale, TRUTHS[name].ppf(q), rtol=0.06)
    np.testing.assert_allclose(model.cdf(TRUTHS[name].ppf(q) * scale), q, atol=0.01)
    assert np.mean(model.logpdf(x * scale)) + np.log(scale) == pytest.approx(np.mean(TRUTHS[name].logpdf(x)), abs=1e-3)


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_likeliest_of_all_is_the_one_that_was_drawn_from(name: str) -> None:
    x = TRUTHS[name].rvs(20_000, random_state=1)

    likelihoods = {other: float(np.mean(fit(x).logpdf(x))) for other, fit in CANDIDATES.items()}

    # Families that hold it as a special case do as well.
    assert likelihoods[name] > max(likelihoods.values()) - 1e-3
