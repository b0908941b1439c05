"""Count sketches, and the sketches that add up without loss."""

import numpy as np
import pytest

from flwr_co3.frame import VERSION
from flwr_co3.schemes import make_scheme
from flwr_co3.schemes.body import Body, Message, write_body
from flwr_co3.schemes.countsketch import sketch, unsketched
from flwr_co3.schemes.hashing import hashes, places_of, signs_of
from flwr_co3.schemes.homomorphic import add, peel
from flwr_co3.schemes.scheme import Parts, Scheme
from flwr_co3.schemes.server import Received
from tests.samples import Array


def heavy(entries: int, hitters: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    v = 0.01 * rng.normal(size=entries)
    where = rng.choice(entries, hitters, replace=False)
    v[where] = rng.choice([-1.0, 1.0], hitters) * rng.uniform(1, 2, hitters)
    return v, np.sort(where)


def test_fetchsgd_recovers_heavy_hitters() -> None:
    v, where = heavy(20_000, 50)
    found = unsketched(sketch(v, 7, 4000), v.size, 50 / v.size)
    assert np.isin(where, np.flatnonzero(found)).mean() >= 0.95
    np.testing.assert_allclose(found[where][found[where] != 0], v[where][found[where] != 0], atol=0.5)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fetchsgd_learns(momentum: float, share: float) -> None:
    target, _ = heavy(1000, 20)
    curvature = np.random.default_rng(2).uniform(0.3, 1, 1000)
    scheme = make_scheme("countsketch", cells=0.5, share=share, momentum=momentum)
    side = scheme.server()
    assert side is not None
    w, losses = np.zeros(1000), []
    for _ in range(80):
        gradient = curvature * (w - target)
        received = [
            Received(str(node), weight, body_of(scheme, -0.05 * part * gradient), [1000])
            for node, weight, part in ((1, 10.0, 0.4), (2, 30.0, 1.2))
        ]
        for one in received:
            side.accept(one)
        restated = side.restate(received)
        assert restated is not None
        step, same = (np.concatenate(vectors) for vectors in restated)
        assert np.array_equal(step, same)
        w = w + step
        side.commit({})
        losses.append(float(np.sum(curvature * (w - target) ** 2)))
    start = float(np.sum(curvature * target**2))
    assert max(losses) <= start and losses[-1] <= 0.1 * start, (max(losses) / start, losses[-1] / start)


def body_of(scheme: Scheme, v: Array) -> Body:
    """What the server reads of a client's update."""
    parts = scheme.encode([v], np.random.default_rng(0), False)
    models, coded, _ = write_body(Message(scheme, parts, 0, True))
    return Body(memoryview(models), memoryview(b"".join(coded)), [v.size], version=VERSION)


def test_sketches_are_linear_and_one_row_is_unbiased() -> None:
    v, _ = heavy(3000, 20)
    w = np.random.default_rng(1).normal(size=3000)
    np.testing.assert_allclose(sketch(v + 2 * w, 5, 200), sketch(v, 5, 200) + 2 * sketch(w, 5, 200), atol=1e-9)
    # Over all rows, the estimate's mean is the entry, with variance ||v||^2 / columns.
    rows, columns = 2000, 50
    table = sketch(v, rows, columns)
    for i in (3, 77):
        estimates = [
            table[row, places_of(hashes(i + 1, row)[i:], columns)[0]] * signs_of(hashes(i + 1, row)[i:])[0]
            for row in range(rows)
        ]
        error = np.sqrt(np.dot(v, v) / columns / rows)
        assert abs(np.mean(estimates) - v[i]) < 4 * error


@pytest.mark.parametrize("entries", [50, 1000, 20_000])
def test_peeling_is_exact_up_to_the_size_that_it_is_made_for(entries: int) -> None:
    rng = np.random.default_rng(entries)
    v = rng.normal(size=entries)
    scheme = make_scheme("homomorphic", share=0.1, room=1.0)
    parts = scheme.encode([v], rng, False)
    (found,) = scheme.decode(parts, [entries])
    kept = np.sort(np.argsort(-np.abs(v))[: round(0.1 * entries)])
    np.testing.assert_array_equal(np.flatnonzero(found), kept)
    np.testing.assert_array_equal(found[kept], np.rint(v[kept] * 2**20) / 2**20)


def test_frames_add_up_without_being_decoded() -> None:
    rng = np.random.default_rng(3)
    scheme = make_scheme("homomorphic", share=0.02, room=10.0)
    sizes = [3000, 500]
    all_parts = [scheme.encode([rng.laplace(size=n) for n in sizes], rng, False) for _ in range(8)]
    apart = sum(np.concatenate([*scheme.decode(parts, sizes)]) for parts in all_parts)
    (together) = np.concatenate([*scheme.decode(add(all_parts), sizes)])
    np.testing.assert_array_equal(together, apart)


def test_what_does_not_fit_together_is_not_added() -> None:
    v, rng = [np.ones(100)], np.random.default_rng(0)
    one, other = (make_scheme("homomorphic", step=step).encode(v, rng, False) for step in (0.5, 0.25))
    with pytest.raises(ValueError, match="with the same step and size"):
        add([one, other])


def test_beyond_its_room_peeling_ends_with_estimates() -> None:
    positions = np.arange(300)
    found = peel(positions, np.zeros(3 * 20, np.int64), 20)
    assert found.shape == (300,) and not found.any()


def test_the_hash_is_fair() -> None:
    mixed = hashes(100_000, 4)
    assert abs(signs_of(mixed).mean()) < 0.015
    counts = np.bincount(places_of(mixed, 100), minlength=100)
    assert counts.min() > 850 and counts.max() < 1150
    assert np.unique(mixed).size == mixed.size and not np.array_equal(mixed, hashes(100_000, 5))


def test_sketches_in_frames_are_as_they_are_made() -> None:
    scheme = make_scheme("countsketch", cells=0.5, rows=3)
    parts = scheme.encode([np.arange(30.0)], np.random.default_rng(0), False)
    assert isinstance(parts, Parts) and parts.numbers.size == 2 + 3 * 5
    np.testing.assert_allclose(parts.numbers[2:].reshape(3, 5), sketch(np.arange(30.0), 3, 5))
