"""What is wrong with something from outside: raised all over data/, printed by launch/ in one line."""


class DataError(ValueError):
    """Names the file, the place in it, the value, and what would work."""


class NotText(DataError):
    """A whole file of another kind than it is read as: who names many may leave it out. Ends as a plain DataError."""


class NoField(NotText):
    """A file of records that have no such field: another may be named."""


class FieldError(DataError):
    """A field of the config that these data can't take. Exit status 2."""
