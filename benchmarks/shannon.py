"""Shannon's R(D) of a generalised normal source, by Blahut and Arimoto: what no quantiser goes below."""

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]

_BINS = 350
_PASSES = 500


def rate_distortion(shape: float, slopes: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Points of the curve of a source of unit variance.

    Parameters
    ----------
    shape : float
        Of the generalised normal.
    slopes : array_like
        Minus the slope of R (in nats) over D at each point: small for few bits.

    Returns
    -------
    tuple of ndarray
        Distortion (squared error; the source's variance is 1) and bits of each point, an upper bound within 1 % of the
        curve: the source is cut into bins, whose own spread counts as distortion.
    """
    x, p = _source(shape)
    reproductions = np.concatenate([x, [0.0]])
    squares = (x[:, None] - reproductions) ** 2
    points = [_point(p, squares, float(slope)) for slope in np.atleast_1d(slopes)]
    distortions, bits = np.array(points).T
    return distortions + _spread(shape, x, p), bits


def _point(p: Floats, squares: Floats, slope: float) -> tuple[float, float]:
    kernel = np.exp(-slope * squares)
    q = np.full(squares.shape[1], 1 / squares.shape[1])
    for _ in range(_PASSES):
        q = q * (kernel.T @ (p / (kernel @ q)))
    mass = kernel @ q
    distortion = float(np.sum(p[:, None] * kernel * q / mass[:, None] * squares))
    return distortion, float(-slope * distortion / np.log(2) - np.sum(p * np.log2(mass)))


def _edges(shape: float) -> Floats:
    """Where bins of magnitudes end, in units of the scale."""
    top = 40 ** (1 / shape)
    return np.concatenate([[0], np.geomspace(1e-3 * top ** min(1, shape), top, _BINS)])


def _moment(shape: float, order: int) -> Floats:
    """``E |x|^order`` over each bin, in units of the scale."""
    share = np.diff(special.gammainc((1 + order) / shape, _edges(shape) ** shape))
    return np.asarray(share * special.gamma((1 + order) / shape) / special.gamma(1 / shape))


def _source(shape: float) -> tuple[Floats, Floats]:
    """Means and probabilities of all bins, both signs; the variance is 1."""
    p, mean = _moment(shape, 0), _moment(shape, 1)
    used = p > 1e-14
    x = mean[used] / p[used] / _std(shape)
    return np.concatenate([-x[::-1], x]), np.concatenate([p[used][::-1], p[used]]) / 2 / p[used].sum()


def _std(shape: float) -> float:
    return float(np.sqrt(special.gamma(3 / shape) / special.gamma(1 / shape)))


def _spread(shape: float, x: Floats, p: Floats) -> float:
    """Variance within the bins."""
    return float(1 - np.sum(p * x**2))
