import pytest

from flwr_co3 import schedules
from simulations.budgets import parse_budget


def test_a_budget_is_a_number_or_a_schedule() -> None:
    assert parse_budget(0.1) == 0.1
    assert parse_budget("linear|start=1|end=0.05|rounds=25") == schedules.linear(1, 0.05, rounds=25)
    assert parse_budget("cosine|rounds=3|end=2|start=.1") == schedules.cosine(0.1, 2, rounds=3)
    assert parse_budget("steps|10=0.1|1=1") == schedules.steps({1: 1, 10: 0.1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("|start=1", "has no name"),
        ("often", "There is no schedule 'often'. Choose one of: linear, cosine, steps."),
        ("linear|start=1|end=0.05", "The schedule linear has no rounds: write linear|start=1|end=0.05|rounds=25."),
        ("linear|start=1|end=0.05|rounds=2.5", "should be of type int"),
        ("linear|start=1|end=0.05|rounds=2|step=1", "has no setting 'step'; its settings: start, end, rounds"),
        ("cosine|start=1|end=0|rounds=25", "has end=0, which must be a number above 0"),
        ("cosine|start=much|end=1|rounds=25", "has start=much, which must be a number above 0"),
        ("steps", "needs at least one number"),
        ("steps|start=1", "from each round on, steps|1=0.5|10=0.1, and no 'start'"),
        ("steps|1", "should read key=value"),
    ],
)
def test_what_is_no_schedule_is_refused_with_a_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_budget(text)
    assert message in str(error.value)
