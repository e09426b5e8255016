"""Writes the card of a model that this room made: what it says, and how it came to say it."""

from pathlib import Path
from typing import Any

THRESHOLD = 0.5
IOU = 0.4

_CARD = """\
# Digits 0 to 9 on meters, displays, house numbers and plates. One cell of the map (1, rows, columns, 15) holds
# o, dx, dy, dw, dh, c0 .. c9:
#
#     score = sigmoid(o) * max(softmax(c))        label = argmax(c)
#     centre x = (column + 0.5 + dx / 4) * 8      width  = 16 * exp(dw / 4)
#     centre y = (row + 0.5 + dy / 4) * 8         height = 16 * exp(dh / 4)
#
# in pixels of the model's input; of overlapping boxes the best is kept, whatever their labels.
decoder = "grid"
task = "detect"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
stride = 8
anchors = [[2.0, 2.0]]
score_threshold = {threshold}
iou_threshold = {iou}

[input]
scale = 0.00392156862745098  # 1 / 255
offset = 0.0
colour = "rgb"
fit = "letterbox"

# The run that made this file.
[made]
"""


def write_card(path: Path, made: dict[str, Any]) -> None:
    """The card as TOML; ``made``: texts, numbers and flat tables of them."""
    lines = [f"{key} = {_value(value)}" for key, value in made.items()]
    path.write_text(_CARD.format(threshold=THRESHOLD, iou=IOU) + "\n".join(lines) + "\n", encoding="utf-8")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{key}" = {_value(item)}' for key, item in value.items()) + " }"
    if isinstance(value, (int, float)):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
