"""``dt edge`` with another number of own frames open at once: ``python -m bench.edge WINDOW --gateway ...``."""

import argparse
import functools
import sys
from pathlib import Path

from edge_agent import app
from edge_agent.node import EdgeNode
from models.engine import silence_runtime


def main(argv: list[str]) -> int:
    """Runs until SIGTERM or the end of stdin."""
    parser = argparse.ArgumentParser(prog="bench.edge")
    parser.add_argument("window", type=int)
    for option in ("--gateway", "--name", "--root", "--cache", "--source"):
        parser.add_argument(option, required=True)
    parser.add_argument("--frames", type=int, required=True)
    given = parser.parse_args(argv)
    silence_runtime()
    vars(app)["EdgeNode"] = functools.partial(EdgeNode, window=given.window)
    cache = Path(given.cache)
    return app.main(given.gateway, given.name, given.source, given.frames, given.root, cache, 1, 1, False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
