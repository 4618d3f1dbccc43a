"""Errors that are the user's to mend: the message names the thing and the remedy."""


class UserError(ValueError):
    """Bad input or a setting that cannot work. The command line prints the message alone and exits with code 2."""


class NoFaceError(UserError):
    """No face was found where one is needed."""


class MediaError(UserError):
    """A picture or video cannot be read or written."""


class AdapterMismatchError(UserError):
    """An adapter file does not fit the model it is used with, or is not an adapter file."""


class Cancelled(Exception):
    """A run was asked to stop, and did at a safe point. `kept` says in words what is left of it."""

    kept = "nothing was written"
