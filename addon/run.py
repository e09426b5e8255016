"""The add-on's first process: Home Assistant's options and its broker become those of `dt gateway`, which takes its place."""

import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

OPTIONS = Path("/data/options.json")
SUPERVISOR = "http://supervisor/services/mqtt"


def command(options: dict[str, Any]) -> list[str]:
    """The command's words for the add-on's ``options``."""
    words = ["dt", "gateway", "--model", options["model"], "--objective", options["objective"], "--listen", "0.0.0.0:8883"]
    words += ["--http", "0.0.0.0:8099"]
    if options.get("labels"):
        words += ["--ha-labels", options["labels"]]
    if options.get("frigate"):
        words += ["--frigate", "tcp://127.0.0.1:5555"]
        words += ["--frigate-timeout", str(options["frigate_timeout"])] if options.get("frigate_timeout") else []
    return words


def broker(url: str, token: str) -> str:
    """The address of Home Assistant's broker, with user and password; empty: it has none."""
    try:
        with urlopen(Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=10) as answer:
            told = json.load(answer)["data"]
    except (OSError, ValueError, KeyError) as error:
        print(f"no broker of Home Assistant's ({error}): the cluster is not shown there", file=sys.stderr)
        return ""
    scheme, user, password = "mqtts" if told.get("ssl") else "mqtt", told.get("username"), told.get("password")
    login = f"{quote(user, safe='')}:{quote(password or '', safe='')}@" if user else ""
    return f"{scheme}://{login}{told['host']}:{told['port']}"


def main() -> None:
    for folder in ("STATE_DIRECTORY", "CACHE_DIRECTORY"):
        Path(os.environ[folder]).mkdir(parents=True, exist_ok=True, mode=0o700)
    words = command(json.loads(OPTIONS.read_text()))
    if address := broker(SUPERVISOR, os.environ.get("SUPERVISOR_TOKEN", "")):
        os.environ["DT_GATEWAY_HA_BROKER"] = address  # not among the words: a process list shows these
    os.execvp(words[0], words)


if __name__ == "__main__":
    main()
