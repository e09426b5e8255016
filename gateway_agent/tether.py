"""Becomes another program that the kernel kills when the parent of this one ends, however it ends (PR_SET_PDEATHSIG).

Run as a file, with the standard library alone, so that it is quick: ``python tether.py PARENT_PID USER PROGRAM [ARGUMENT...]``.
It leaves no process of its own. Linux only. A program that changes its user or group loses the tether; so the change is made
here, before the kernel is asked: USER is ``UID:GID``, or ``-`` to stay who we are.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel, then exec; exit 0 without starting anything if the parent died before it was asked."""
    parent, user, *command = sys.argv[1:]
    if user != "-":
        uid, gid = map(int, user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        sys.exit(f"Error: prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() == int(parent):
        os.execv(command[0], command)


if __name__ == "__main__":
    main()
