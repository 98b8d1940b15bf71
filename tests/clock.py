"""A clock that tests set."""


class Clock:
    """Shows the seconds it is set to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now
