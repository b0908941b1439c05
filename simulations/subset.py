"""Less than a whole data set, for quick studies and for tuning."""

from typing import NamedTuple


class Subset(NamedTuple):
    """Which examples of a data set are used.

    Attributes
    ----------
    train, test : int
        So many of the training and of the test split, drawn once and for all; 0 for all of them.
    validation : bool
        Evaluate on a tenth of the training examples, which no client has then, and leave the test split alone.
    """

    train: int = 0
    test: int = 0
    validation: bool = False
