"""Points of bodies, faces and hands."""

import numpy as np

from models.results.card_file import Card
from models.results.decoders.head import Head, cell_size, placed_points, sigmoid
from schemas.contract.results import Result


def movenet(head: Head) -> Result:
    """(1, 1, K, 3) of y, x, score, places normalized. Source: TensorFlow Hub, movenet/singlepose."""
    rows = head.tensors[0].reshape(-1, 3)
    points = rows[:, [1, 0]] * np.array((head.pixels.width, head.pixels.height), np.float32)
    return Result(task="pose", keypoints=placed_points(head, points, rows[:, 2]))


def heatmaps(head: Head) -> Result:
    """(1, h, w, K) scores, and maybe (1, h, w, 2K) offsets in pixels, all y before all x: each map's highest cell.

    With offsets as PoseNet: place = cell * stride + offset, stride = (input - 1) / (map - 1) unless the card has one.
    Without: the middle of the cell. Source: tensorflow/tfjs-models, posenet/single_pose.
    """
    maps = head.tensors[0][0]
    height, width, count = maps.shape
    best = maps.reshape(-1, count).argmax(axis=0)
    y, x, k = best // width, best % width, np.arange(count)
    scores = maps[y, x, k]
    cells = np.stack([x, y], axis=1).astype(np.float32)
    if len(head.tensors) > 1:
        offsets = head.tensors[1][0]
        between = ((head.pixels.width - 1) / max(width - 1, 1), (head.pixels.height - 1) / max(height - 1, 1))
        stride = np.array(between if head.card.stride is None else (head.card.stride,) * 2)
        points = cells * stride + np.stack([offsets[y, x, k + count], offsets[y, x, k]], axis=1)
    else:
        points = (cells + 0.5) * cell_size(head, head.tensors[0])
    scores = sigmoid(scores) if head.card.logits else scores
    return Result(task="pose", keypoints=placed_points(head, points, scores))


def landmarks(head: Head) -> Result:
    """(1, K * D) of x, y and D - 2 more values for each point, in pixels of the model's picture, as MediaPipe's meshes are.

    D = 2 to 5 follows from the card's keypoints; without them it is 3. Where a second output is one number, that is the score
    that there is a face or a hand at all (a logit below 0 or above 1), and below the threshold there are no points.
    Source: google-ai-edge/mediapipe, tensors_to_landmarks_calculator.cc.
    """
    values = head.tensors[0].reshape(-1)
    count = points_of(head.card, values.size)
    points = values.reshape(count, -1)[:, :2]
    found = 1.0
    if len(head.tensors) > 1:
        found = float(head.tensors[1].reshape(-1)[0])
        found = found if 0 <= found <= 1 else float(sigmoid(np.array(found)))
    if found < head.card.threshold:
        return Result(task="pose")
    return Result(task="pose", keypoints=placed_points(head, points, np.full(count, found)))


def points_of(card: Card, size: int) -> int:
    """How many points so many values are; 0 if they are none."""
    count = len(card.keypoints) or size // 3
    return count if count and size % count == 0 and 2 <= size // count <= 5 else 0
