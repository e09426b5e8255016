"""What this machine's kernels make of three models, as JSON: run by ``emulate`` on each processor.

Tiles of a float32, an int8 and a uint8 model, at 2x2 and 3x3, by the interpreter and by the weight cache: each must have
the bits of the model that is not divided; their digest tells which processors have the same.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from models.bundle import Bundle, Reference, make_bundle
from models.graph.file import parse
from models.running import engine
from models.running.runner import TileRunner
from models.tiling.tensor import stitch, to_input
from schemas.contract.plan import digest
from tests.models.sketch import RELU, Sketch, quantized

GRIDS = (2, 2), (3, 3)
ZOO = Path(__file__).parents[2] / "models" / "zoo"


def drawn(dtype: str, path: Path) -> Path:
    """A small network of convolutions, written to ``path``."""
    net = Sketch((1, 48, 48, 3), dtype, None if dtype == "float32" else quantized(1 / 255))
    x = net.conv(0, 16, (3, 3), (2, 2), activation=RELU)
    for filters in (24, 32):
        x = net.conv(net.conv(x, 1, depthwise=True, activation=RELU), filters, (1, 1), activation=RELU)
    path.write_bytes(net.graph(net.conv(x, 12)).to_bytes())
    return path


def maps(bundle: Bundle, image: np.ndarray, cache: Path | None) -> dict[str, np.ndarray]:
    """The cut's maps of an image, put together of tiles."""
    (block,), runner = bundle.plan.blocks, TileRunner(bundle.plan, parse(bundle.edge_model), cache)
    made = {tile: runner.run(0, tile, runner.crops(image, 0, tile), "frame") for tile in block.order}
    return {t.name: stitch(t, [(block.tiles[i].outputs[t.name], made[i][t.name]) for i in made]) for t in block.cut}


def bits(path: Path, folder: Path) -> str:
    """A digest of the undivided model's cut; ends the program where tiles make other bits."""
    found = ""
    for grid in GRIDS:
        bundle = make_bundle(path, grid)
        pixels = bundle.plan.pixels
        image = np.random.default_rng(5).integers(0, 256, (1, pixels.height, pixels.width, 3), np.uint8)
        want, _ = Reference(bundle).run(to_input(image, pixels))
        for cache in (None, folder):
            for name, got in maps(bundle, image, cache).items():
                if got.tobytes() != want[name].tobytes():
                    how = "with the weight cache" if cache else "by the interpreter"
                    sys.exit(f"{path.stem} at {grid}, {how}: {name} has other bits in tiles than undivided")
        found = digest(b"".join(array.tobytes() for array in want.values()))[:8]
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        paths = {"float32": ZOO / "digits.tflite", "int8": ZOO / "digits_int8.tflite"}
        paths["uint8"] = drawn("uint8", folder / "uint8.tflite")
        made = {arithmetic: bits(path, folder) for arithmetic, path in paths.items()}
    print(json.dumps({"kernels": engine.kernels(), "bits": made}))


if __name__ == "__main__":
    main()
