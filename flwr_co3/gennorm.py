"""The generalised normal distribution: the model of what is sent.

``f(x) = shape / (2 scale Gamma(1/shape)) exp(-(|x|/scale)^shape)``, location 0. Shape 1 is Laplace, shape 2 is
the normal. Updates of deep networks lie between .3 and 1.6 (arXiv 2111.07599).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flwr_co3.moments import Moments

#: The shapes that the library fits, codes and optimises for.
SHAPE_RANGE = (0.2, 4.0)


def shape_of_ratio(ratio: float) -> float:
    """Solve the moment equation ``E x^2 / (E|x|)^2 = ratio`` for the shape, kept within `SHAPE_RANGE`."""
    target = math.log(max(ratio, 1.0))
    low, high = SHAPE_RANGE
    for _ in range(48):  # the ratio falls with the shape; 48 halvings exhaust float64
        middle = 0.5 * (low + high)
        if log_moment_ratio(middle) > target:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def log_moment_ratio(shape: float) -> float:
    """Logarithm of ``E x^2 / (E|x|)^2 = Gamma(1/b) Gamma(3/b) / Gamma(2/b)^2`` at shape b."""
    return math.lgamma(1 / shape) + math.lgamma(3 / shape) - 2 * math.lgamma(2 / shape)


@dataclass(frozen=True)
class GenNorm:
    """Generalised normal distribution with location 0.

    Parameters
    ----------
    shape : float
        Exponent of the density (dimensionless, > 0): 1 is Laplace, 2 is normal, less has heavier tails.
    scale : float
        Width, in the units of the data (> 0).

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).laplace(scale=0.01, size=100_000)
    >>> model = GenNorm.fit(x)
    >>> bool(0.95 < model.shape < 1.05)
    True
    """

    shape: float
    scale: float

    def __post_init__(self) -> None:
        """Refuse parameters that are no distribution."""
        for name, value in (("shape", self.shape), ("scale", self.scale)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"GenNorm {name} must be a finite number above 0, not {value!r}.")

    @classmethod
    def laplace(cls, scale: float) -> GenNorm:
        """Laplace distribution with mean magnitude `scale`."""
        return cls(1.0, scale)

    @classmethod
    def normal(cls, std: float) -> GenNorm:
        """Normal distribution with standard deviation `std`."""
        return cls(2.0, math.sqrt(2) * std)

    @classmethod
    def fit(cls, x: npt.ArrayLike) -> GenNorm:
        """Fit by moments (of |x| and x^2): one pass, fast enough to run on every tensor of every round.

        Parameters
        ----------
        x : array_like
            Finite real values, any shape, not all zero.

        Returns
        -------
        GenNorm
            Shape within .2 to 4.

        Raises
        ------
        ValueError
            If there is nothing to fit: no entries, only zeros, or a value that is not finite.
        """
        return cls.from_moments(Moments.of(np.asarray(x)))

    @classmethod
    def from_moments(cls, moments: Moments) -> GenNorm:
        """Fit by moments already measured; see `fit`."""
        if not math.isfinite(moments.peak):
            raise ValueError("GenNorm can't be fitted to NaN or infinite values.")
        if not moments.nonzero:
            raise ValueError("GenNorm can't be fitted to a tensor that is empty or all zero.")
        shape = shape_of_ratio(moments.mean_square / moments.mean_abs**2)
        unit = math.exp(math.lgamma(1 / shape) - math.lgamma(2 / shape))
        scale = moments.mean_abs * unit * moments.peak
        return cls(shape, min(max(scale, np.finfo(np.float64).smallest_subnormal), np.finfo(np.float64).max))

    @classmethod
    def fit_mle(cls, x: npt.ArrayLike) -> GenNorm:
        """Fit by maximum likelihood: slower than `fit`, the reference it is judged by.

        Parameters
        ----------
        x : array_like
            Finite real values, any shape, not all zero. Exact zeros are allowed.

        Returns
        -------
        GenNorm
            The most likely shape within .2 to 4, with its scale.

        Notes
        -----
        At a given shape b the likeliest scale is ``(b mean(|x|^b))^(1/b)``, so one variable is left to search.
        """
        from scipy import optimize  # slow to import, and needed here alone

        magnitude = np.abs(np.asarray(x, dtype=np.float64)).ravel()
        cls.from_moments(Moments.of(magnitude))  # the same refusals
        peak = float(magnitude.max())
        magnitude /= peak

        def scale_at(shape: float) -> float:
            return float((shape * np.mean(magnitude**shape)) ** (1 / shape))

        def cost(log_shape: float) -> float:
            shape = math.exp(log_shape)
            return math.lgamma(1 / shape) - log_shape + math.log(scale_at(shape)) + 1 / shape

        bounds = (math.log(SHAPE_RANGE[0]), math.log(SHAPE_RANGE[1]))
        best = optimize.minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-7})
        shape = math.exp(best.x)
        return cls(shape, scale_at(shape) * peak)

    @property
    def std(self) -> float:
        """Standard deviation, in the units of the data."""
        return self.scale * math.exp(0.5 * (math.lgamma(3 / self.shape) - math.lgamma(1 / self.shape)))

    @property
    def mean_abs(self) -> float:
        """Mean magnitude ``E|x|``, in the units of the data."""
        return self.scale * math.exp(math.lgamma(2 / self.shape) - math.lgamma(1 / self.shape))

    def logpdf(self, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Natural logarithm of the density at `x` (any shape)."""
        constant = math.log(self.shape / (2 * self.scale)) - math.lgamma(1 / self.shape)
        power: npt.NDArray[np.float64] = np.abs(np.asarray(x, dtype=np.float64) / self.scale) ** self.shape
        return constant - power

    def pdf(self, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Density at `x` (any shape), per unit of the data."""
        return np.exp(self.logpdf(x))

    def cdf(self, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Probability of a value up to `x` (any shape)."""
        from scipy import special  # slow to import, and no encoding needs it

        x = np.asarray(x, dtype=np.float64)
        inside = special.gammainc(1 / self.shape, np.abs(x / self.scale) ** self.shape)
        return np.asarray(0.5 + 0.5 * np.sign(x) * inside)

    def ppf(self, q: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Quantile: the value below which the share `q` in [0, 1] lies; NaN outside that range."""
        from scipy import special

        q = np.asarray(q, dtype=np.float64)
        inside = special.gammaincinv(1 / self.shape, np.abs(2 * q - 1))
        return np.asarray(np.sign(q - 0.5) * self.scale * inside ** (1 / self.shape))

    def entropy(self) -> float:
        """Differential entropy, in bits: ``1/b + ln(2 scale Gamma(1/b) / b)`` over ``ln 2``."""
        nats = 1 / self.shape + math.log(2 * self.scale / self.shape) + math.lgamma(1 / self.shape)
        return nats / math.log(2)
