"""The portable functions against scipy's and numpy's."""

import numpy as np
import pytest
from scipy import special

from flwr_co3.arithmetic import exp, incomplete_gamma, log, power


def test_logarithm() -> None:
    x = np.concatenate([np.geomspace(5e-324, 1.7e308, 5000), np.linspace(0.5, 2, 3001)])
    np.testing.assert_allclose(log(x), np.log(x), rtol=1e-15, atol=1e-16)


def test_exponential() -> None:
    x = np.concatenate([np.linspace(-600, 600, 4001), np.linspace(-1, 1, 2001)])
    np.testing.assert_allclose(exp(x), np.exp(x), rtol=2e-13)
    assert exp(np.array([-1e300, 1e300])).tolist() == exp(np.array([-600.0, 600.0])).tolist()


@pytest.mark.parametrize("exponent", [0.2, 0.7, 1.0, 2.0, 4.0, 10.0])
def test_power(exponent: float) -> None:
    x = np.concatenate([[0.0], np.geomspace(1e-25, 1e25, 1001)])
    np.testing.assert_allclose(power(x, exponent), x**exponent, rtol=1e-12)
    assert np.isfinite(power(np.array([1e300]), exponent))


@pytest.mark.parametrize("a", [0.25, 0.5, 1.0, 3.3, 5.0, 10.0])
def test_incomplete_gamma(a: float) -> None:
    tolerance = 1e-12 if a <= 5 else 1e-8
    z = np.concatenate([[0.0], np.geomspace(1e-30, 200, 2000), [1.0, 40.0, 40.00001]])
    np.testing.assert_allclose(incomplete_gamma(a, z), special.gammainc(a, z), atol=tolerance, rtol=0)
    assert incomplete_gamma(a, z.reshape(4, 501)).shape == (4, 501)
