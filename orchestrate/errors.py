"""Errors that are the user's to mend, told apart from our own mistakes."""


class UserError(ValueError):
    """A mistake in what the user gave. Shown as one line, exit code 2, never a traceback.

    The message names the value, the rule it breaks and the nearest valid choice.
    """


class ConfigError(UserError):
    """A config value, or a combination of values, that cannot work."""


class DataError(UserError):
    """A data file that is missing, empty or damaged, or tokens that do not fit the model."""


class ExchangeError(UserError):
    """A folder in Hugging Face's form that cannot be read or written, or a model that has no such form."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or of another model or other data."""
