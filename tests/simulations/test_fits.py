import numpy as np
import pytest

from simulations.fits import fit_layer


@pytest.mark.parametrize(("draw", "best"), [("laplace", "Laplace"), ("normal", "normal")])
def test_the_distribution_that_was_drawn_from_fits_best(draw: str, best: str) -> None:
    rng = np.random.default_rng(0)
    fit = fit_layer("layer", 1, getattr(rng, draw)(0.0, 0.003, (200, 300)))

    assert fit is not None
    by_name = {model.name: model for model in fit.models}
    others = [model for model in fit.models if model.name not in (best, "GenNorm")]
    assert all(by_name[best].log_likelihood > model.log_likelihood and by_name[best].w2 < model.w2 for model in others)
    assert by_name["GenNorm"].shape == pytest.approx(by_name[best].shape, rel=0.03)
    assert by_name["GenNorm"].log_likelihood == pytest.approx(by_name[best].log_likelihood, abs=1e-3)


def test_the_histogram_is_a_density_and_counts_what_is_zero() -> None:
    update = np.random.default_rng(0).normal(size=4000)
    update[:1000] = 0
    fit = fit_layer("layer", 1, update)

    assert fit is not None and fit.zeros == 0.25 and fit.entries == 4000
    assert np.sum(np.diff(fit.edges) * fit.density) == pytest.approx(1.0)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_there_is_nothing_to_fit_in_what_is_all_zero_or_not_finite(value: float) -> None:
    assert fit_layer("layer", 1, np.full((20, 20), value)) is None
