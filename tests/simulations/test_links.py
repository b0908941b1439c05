import math
from pathlib import Path

import numpy as np
import pytest

from simulations.links import PROFILES, Link, Trace, make_links


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_every_clients_link(name: str) -> None:
    links = make_links(name, seed=0)

    assert {links.link(partition, server_round) for partition in range(5) for server_round in (1, 2)} == {
        PROFILES[name]
    }


def test_settings_take_the_place_of_the_profiles_own() -> None:
    link = make_links("4g:uplink=2e6,loss=0.1", seed=0).link(0, 1)

    assert link == Link(2e6, PROFILES["4g"].downlink, PROFILES["4g"].latency, 0.1)


def test_each_client_draws_one_of_several_profiles_and_keeps_it() -> None:
    links = make_links("3g+4g", seed=0)
    drawn = [links.link(partition, 1) for partition in range(50)]

    assert set(drawn) == {PROFILES["3g"], PROFILES["4g"]}
    assert drawn == [links.link(partition, 7) for partition in range(50)]
    assert drawn != [make_links("3g+4g", seed=1).link(partition, 1) for partition in range(50)]


def test_rates_are_lognormal_over_clients() -> None:
    links = make_links("lognormal:uplink=1e6,spread=0.7", seed=0)
    logarithms = np.log([links.link(partition, 1).uplink / 1e6 for partition in range(4000)])

    assert abs(logarithms.mean()) < 0.7 * 4 / math.sqrt(4000)
    assert logarithms.std() == pytest.approx(0.7, rel=0.05)


def test_a_trace_holds_until_the_clients_next_row(tmp_path: Path) -> None:
    path = tmp_path / "links.csv"
    path.write_text(
        "client,round,uplink,downlink,latency,loss\n0,1,1e6,2e6,0.1,\n0,3,5e5,2e6,0.1,0.5\n1,1,9e6,9e6,0,0\n"
    )
    links = make_links(f"trace:path={path}", seed=0)

    assert [links.link(0, server_round).uplink for server_round in (1, 2, 3, 9)] == [1e6, 1e6, 5e5, 5e5]
    assert links.link(0, 4).loss == 0.5 and links.link(1, 2) == Link(9e6, 9e6, 0.0)
    with pytest.raises(ValueError, match="says nothing of client 2 in round 1"):
        links.link(2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5g", "There is no profile of links '5g'. Choose one of: iot, 3g"),
        ("3g:speed=1", "The links '3g' has no setting 'speed'"),
        ("3g:uplink=0", "A link's uplink is 0.0, which cannot be"),
        ("3g:loss=1.5", "A link's loss is 1.5"),
        ("3g:latency=-1", "A link's latency is -1.0"),
        ("3g:spread=-1", "spread is -1.0, but must be 0 or more"),
        ("trace:path=nowhere.csv", "'nowhere.csv' cannot be read"),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make_links(text, seed=0)
    assert message in str(error.value)


@pytest.mark.parametrize("content", ["client,round\n0,1\n", "client,round,uplink,downlink,latency\n0,1,fast,1,1\n"])
def test_what_is_no_trace_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "links.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match="is not a CSV file with the columns client, round, uplink"):
        Trace.read(path)
