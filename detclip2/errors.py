"""The one exception for mistakes that the user can mend."""


class UserError(ValueError):
    """A sentence that tells the user what to do: which file, which key, what was expected.

    The command line prints it without a traceback and exits with code 2.
    """
