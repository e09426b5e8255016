"""Whose fault it was: one exception for each party. The message names the value, the limit and what to do, in one line."""

from schemas.text import one_line


class DtError(Exception):
    """A failure that a user can act on; printed as one line. ``exit_code`` follows sysexits.h."""

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class PlanError(DtError):
    """Our input is at fault: a model, a grid, a cut, a budget, a file that the user named."""

    exit_code = 2


class DecodeError(DtError):
    """Their bytes are at fault: a message that is malformed, too large or speaks of another plan."""


class EngineError(DtError):
    """The TFLite runtime refused a graph or failed to run it."""


class UnreachableError(DtError):
    """A broker or gateway that cannot be reached."""

    exit_code = 69


class ConfigError(DtError):
    """A configuration file or an environment variable is at fault; trying again would not help."""

    exit_code = 78


class CredentialError(DtError):
    """Credentials that are missing, damaged or refused for good: trying again would not help."""

    exit_code = 78
