"""The one exception for mistakes that a user can make and mend."""


class UserError(ValueError):
    """Something the user gave cannot be used: one line that says what, and what would do.

    The command line prints it without a traceback and exits with status 2.
    """
