from simulations.federation import RoundResult
from simulations.results import Run
from simulations.tuning import best_learning_rates


def run(scheme: str, learning_rate: float, accuracy: float, problem: str = "") -> Run:
    rounds = [RoundResult(0, 0.1, 2.3), RoundResult(1, accuracy, 1.0)]
    return Run(scheme, 0, rounds, problem, learning_rate)


def test_each_scheme_gets_its_best_and_the_lower_of_two_equal_ones() -> None:
    runs = [run("a", 0.1, 0.7), run("a", 0.01, 0.5), run("b", 0.1, 0.6), run("b", 0.01, 0.6)]

    assert best_learning_rates(runs) == {"a": 0.1, "b": 0.01}


def test_a_run_that_ended_early_has_no_part_in_it() -> None:
    assert best_learning_rates([run("a", 0.1, 0.9, "lost"), run("a", 0.01, 0.5), run("b", 0.1, 0.9, "lost")]) == {
        "a": 0.01
    }
