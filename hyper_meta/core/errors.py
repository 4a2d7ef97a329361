"""The error that a user can mend. Imports nothing, so that a mistake is answered at once."""


class UserError(Exception):
    """Something the user gave is wrong. One line: what was given, what is expected, what to do."""
