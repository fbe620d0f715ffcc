"""Errors in files or settings that come from outside: raised all over data/, printed by launch/ in one line."""


class DataError(ValueError):
    """Something is wrong with the data. The message names the file, the place in it, the value, and what would work."""


class NotTextError(DataError):
    """A whole file is of another kind than it is read as, and may be left out of many. Ends as a plain DataError."""


class MissingFieldError(NotTextError):
    """The records of a file have no such field: another may be named."""


class FieldError(DataError):
    """A field of the config does not go with these data. Exit status 2."""
