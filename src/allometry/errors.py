"""The one exception for mistakes that a user can make and correct."""


class UserError(ValueError):
    """Something the user gave cannot be used; the message is one line that names it and says what to do.

    The command line prints it without a traceback and exits with status 2.
    """
