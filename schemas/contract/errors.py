"""Whose fault it was: one exception for each party. The message names the value, the limit and what to do, in one line."""

import errno
from pathlib import Path

from schemas.contract.text import one_line

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, which is nobody's mistake


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


def unwritable(path: Path, error: OSError) -> DtError:
    """What to raise where a file that the user named cannot be written."""
    if error.errno in (*FULL, errno.EIO, errno.EPIPE):
        return DtError(f"cannot write {path}: {error.strerror}: make room there, or name another place")
    return PlanError(f"cannot write {path}: {error.strerror}")
