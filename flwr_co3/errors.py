"""What can be wrong with a frame."""


class FrameError(ValueError):
    """A frame is damaged, cut, made by an unknown version, or not what the receiver expects.

    The message says what is wrong and where. Nothing of a frame that raises it may be used.
    """
