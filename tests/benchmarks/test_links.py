"""The benchmark of slow links at a tiny size; times are not judged."""

import json

import pytest

from benchmarks import links
from benchmarks.output import Form

pytestmark = [pytest.mark.deployment, pytest.mark.xdist_group("first worker"), pytest.mark.timeout(400)]


def test_a_federation_trains_through_its_links(capsys: pytest.CaptureFixture[str]) -> None:
    links.main("CO3 up and down", rounds=1, nodes=2, hidden=16, megabits=10, form=Form.JSON)

    ((row,),) = (table["rows"] for table in json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert row["seconds"] > 0
    assert row["times faster"] == 1
    assert 0 <= row["accuracy"] <= 1
    assert row["MB up"] > 0
    assert row["MB down"] > 0


def test_a_scheme_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"There is no scheme 'CO4'\. Choose from: FedAvg, "):
        links.main("CO4")
