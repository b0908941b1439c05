import pytest

from simulations.choices import look_up, only_options, parse_choice, split_choices


def test_a_choice_is_a_name_with_typed_settings() -> None:
    choice = parse_choice("co3:format=fp4, scale=40,memory-decay=.9,flag=true", "scheme")

    assert choice == ("co3", {"format": "fp4", "scale": 40, "memory_decay": 0.9, "flag": True})


@pytest.mark.parametrize("text", ["", ":a=1", "iid:alpha", "iid:=1", "iid:alpha="])
def test_what_is_no_choice_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"The partitioner .*\.$|The partitioner .* key=value"):
        parse_choice(text, "partitioner")


def test_a_list_is_not_split_within_a_choice() -> None:
    assert split_choices("fedavg,co3:format=fp4,scale=40, co3-fp8,") == ["fedavg", "co3:format=fp4,scale=40", "co3-fp8"]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"There is no strategy 'fedsgd'. Choose one of: fedavg, krum"):
        look_up({"fedavg": 1, "krum": 2}, "fedsgd", "strategy")


def test_options_are_checked_against_what_is_declared() -> None:
    allowed = {"alpha": float}

    assert only_options(parse_choice("dirichlet:alpha=1", "partitioner"), allowed, "partitioner") == {"alpha": 1.0}
    with pytest.raises(ValueError, match="has no setting 'beta'; its settings: alpha"):
        only_options(parse_choice("dirichlet:beta=1", "partitioner"), allowed, "partitioner")
    with pytest.raises(ValueError, match="should be of type float"):
        only_options(parse_choice("dirichlet:alpha=big", "partitioner"), allowed, "partitioner")
