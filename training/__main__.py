"""``python -m training``: scenes, training, export, int8, evaluation and cards, in this order.

Needs ``pip install torch==2.13.0 pillow ai-edge-quantizer flatbuffers`` and the free fonts of ``fonts.txt``
(``xargs apt-get install -y < training/fonts.txt``); other fonts change the figures a little, none at all works
too. About 50 minutes on one core, 4.5 GB of disk.

Steps that were done are not done again: shards and checkpoint in ``--folder`` are used, and training goes on from where
it stopped.
"""

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_agent.sources.scenes import glyphs
from training import data, evaluate
from training.cards import write_card

_ZOO = Path(__file__).parent.parent / "models" / "zoo"
_TEST_SEED = 1_000_003  # frames of the evaluation and of the calibration are of other seeds than those of training
_CALIBRATION_SEED = 2_000_003


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache/deepthings-mqtt/digits", help="working files")
    parser.add_argument("--out", type=Path, default=_ZOO, help="where the models and their cards go")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frames", type=int, default=12000, help="training frames to draw")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[7000, 12500], help="steps of 32 crops at which each cycle of training ends"
    )
    parser.add_argument("--test-frames", type=int, default=1000)
    parser.add_argument("--calibration-frames", type=int, default=200)
    arguments = parser.parse_args()
    data.make_shards(arguments.folder / "shards", arguments.seed, arguments.frames)
    made = _make(arguments)
    paths = [arguments.out / "digits.tflite", arguments.out / "digits_int8.tflite"]
    for path in paths:
        write_card(path.with_suffix(".toml"), made)  # without figures: the evaluation reads it
    figures = [evaluate.evaluate(path, _TEST_SEED, arguments.test_frames) for path in paths]
    for path, found in zip(paths, figures):
        print(f"{path.name}: AP50 {found['ap50']:.4f}, readings {found['readings']:.4f} of {found['frames']} frames")
        reached = {key: found[key] for key in ("frames", "digits", "ap50", "ap50_of", "readings", "panels")}
        write_card(path.with_suffix(".toml"), {**made, "evaluation_seed": _TEST_SEED, **reached})
    evaluate.write(arguments.folder / "evaluation.json", figures)
    print(f"figures in {arguments.folder / 'evaluation.json'}")


def _make(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains, exports and quantizes; what the cards say of it."""
    from training import export
    from training.train import BATCH, CROP, RATE, train

    for steps in arguments.steps:
        network, minutes = train(arguments.folder, arguments.seed, steps, arguments.frames)
    images = export.calibration_images(_CALIBRATION_SEED, arguments.calibration_frames)
    graph = export.to_graph(network)
    worst = export.difference(network, graph, images[:8])
    small = export.quantize(graph, images)
    export.check_input(small.tensors[small.inputs[0]])
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, written in (("digits", graph), ("digits_int8", small)):
        (arguments.out / f"{name}.tflite").write_bytes(written.to_bytes())
    print(f"exported: differs from PyTorch by {worst:.1e} at most")
    steps_of = " ".join(map(str, arguments.steps))
    return {
        "command": f"python -m training --seed {arguments.seed} --frames {arguments.frames} --steps {steps_of}",
        "seed": arguments.seed,
        "frames_drawn": arguments.frames,
        "fonts": len([face for face in glyphs.faces("train") if face.kind == "font"]),
        "steps": arguments.steps[-1],
        "batch": BATCH,
        "crop": CROP,
        "rate": RATE,
        "training_minutes": round(minutes, 1),
        "largest_difference_from_torch": float(f"{worst:.1e}"),
        "calibration_frames": arguments.calibration_frames,
        "torch": version("torch"),
        "quantizer": f"ai-edge-quantizer {version('ai-edge-quantizer')}",
        "runtime": f"ai-edge-litert {version('ai-edge-litert')}",
    }


if __name__ == "__main__":
    main()
