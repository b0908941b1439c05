import pytest

from simulations.outer_products import OuterProducts, parse_outer_products


def test_a_choice_says_which_how_many_and_what_is_left_of_the_others() -> None:
    assert parse_outer_products("exact") is None
    assert parse_outer_products("topk:k=32") == OuterProducts("topk", 32, 1.0)
    assert parse_outer_products("random:k=4,memory-decay=0.5") == OuterProducts("random", 4, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no name"),
        ("best:k=2", "There is no selection of outer products 'best'. Choose one of: exact, topk, weighted, random."),
        ("topk", "'topk' don't say how many are computed: write topk:k=8"),
        ("topk:memory_decay=1", "don't say how many"),
        ("topk:k=2.5", "should be of type int"),
        ("topk:k=0", "k of the outer products is 0"),
        ("weighted:k=2,memory_decay=1.1", "memory-decay of the outer products is 1.1"),
        ("weighted:k=2,memory_decay=-1", "memory-decay of the outer products is -1.0"),
        ("exact:k=2", "has no setting 'k'"),
        ("random:k=2,share=1", "has no setting 'share'; its settings: k, memory_decay"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_outer_products(text)
    assert message in str(error.value)
