"""What is wrong with something from outside: raised all over data/, printed by launch/ in one line."""


class DataError(ValueError):
    """Names the file, the place in it, the value, and what would work."""
