"""The packages that were tested with this program: ``constraints.txt``, in a checkout or beside the units.

Remedies name it, so that what is installed later is what was tested, too.
"""

import importlib.metadata
import re
import sysconfig
from pathlib import Path

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)


def constraints() -> Path | None:
    """The file with the pins, if it was installed."""
    folders = Path(__file__).parents[2], Path(sysconfig.get_path("data")) / "share/deepthings"
    return next((folder / "constraints.txt" for folder in folders if (folder / "constraints.txt").is_file()), None)


def install(extra: str = "") -> str:
    """The command that adds an extra, or sets right what is there, as it was tested."""
    file = constraints()
    return f"pip install 'deepthings-mqtt{extra and f'[{extra}]'}'" + (f" -c {file}" if file else "")


def untested() -> list[str]:
    """What is installed in another version than was tested, such as "numpy 2.5.0 (tested: 2.4.6)"."""
    file, pins = constraints(), dict[str, list[str]]()
    for name, version in _PIN.findall(file.read_text() if file else ""):
        pins.setdefault(name, []).append(version)
    found = []
    for name, tested in pins.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if installed not in tested:
            found.append(f"{name} {installed} (tested: {' or '.join(tested)})")
    return found
