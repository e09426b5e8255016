"""What is guessed of a model has evidence; where there is too little the answer is raw."""

import pytest

from models.graph.file import Graph, Tensor
from models.graph.metadata import About
from models.results.card import check_card, complete
from models.results.card_file import COCO_KEYPOINTS, FACE_KEYPOINTS
from models.results.guess import guess
from tests.models.test_card import network

Shape = tuple[int, ...]


@pytest.mark.parametrize(
    ("outputs", "size", "strides", "label", "scale"),
    [
        (((1, 896, 16), (1, 896, 1)), 128, (8, 16, 16, 16), "face", 1 / 127.5),
        (((1, 2304, 1), (1, 2304, 16)), 192, (4,), "face", 1 / 127.5),
        (((1, 2016, 18), (1, 2016, 1)), 192, (8, 16, 16, 16), "palm", 1 / 255),
        (((1, 2254, 12), (1, 2254, 1)), 224, (8, 16, 32, 32, 32), "person", 1 / 127.5),
    ],
)
def test_mediapipes_detectors_are_known_by_their_pairs_of_outputs(
    outputs: tuple[Shape, ...], size: int, strides: Shape, label: str, scale: float
) -> None:
    graph = network(*outputs, size=size)
    found = complete(guess(graph), graph)
    check_card(found, graph)
    assert (found.decoder, found.strides, found.labels, found.input.scale) == ("blaze", strides, (label,), scale)
    assert found.logits and found.outputs == (("out0", "out1") if outputs[0][2] > 1 else ("out1", "out0"))
    assert found.keypoints == FACE_KEYPOINTS or label != "face"


@pytest.mark.parametrize(
    ("outputs", "size", "decoder"),
    [
        (((1, 1917, 4), (1, 1917, 24)), 300, "ssd_anchors"),
        (((1, 2034, 91), (1, 2034, 4)), 320, "ssd_anchors"),
        (((1, 19206, 4), (1, 19206, 90)), 320, "efficientdet"),
        (((1, 300, 6),), 640, "yolo_end_to_end"),
        (((1, 116, 8400), (1, 160, 160, 32)), 640, "yolov8"),
        (((1, 38, 300), (1, 160, 160, 32)), 640, "raw"),
        (((1, 1000),), 224, "top_k"),
        (((1, 257, 257, 21),), 257, "segmentation"),
    ],
)
def test_numbers_of_boxes_and_classes_tell_a_decoder(outputs: tuple[Shape, ...], size: int, decoder: str) -> None:
    graph = network(*outputs, size=size)
    found = complete(guess(graph), graph)
    check_card(found, graph)
    assert found.decoder == decoder


@pytest.mark.parametrize(
    ("outputs", "size"),
    [
        (((1, 896, 16),), 128),  # half of a pair
        (((1, 895, 16), (1, 895, 1)), 128),
        (((1, 213),), 64),  # landmarks of an eye, of a body, of a face, of a hand
        (((1, 195), (1, 1)), 256),
        (((1, 1, 1, 1404), (1, 1, 1, 1)), 192),
        (((1, 63), (1, 1), (1, 1), (1, 63)), 224),
        (((1, 56, 8400),), 640),  # 17 keypoints, or 52 classes
        (((1, 128),), 96),  # an embedding
        (((1, 96, 96, 1),), 96),  # an autoencoder, a depth, a mask
        (((1, 96, 96, 3),), 96),
        (((1, 32, 37),), 64),
        (((1, 100, 10),), 64),
        (((1, 10, 10, 50),), 320),
        (((1, 1000), (1, 7)), 224),
    ],
)
def test_a_shape_alone_is_no_evidence(outputs: tuple[Shape, ...], size: int) -> None:
    assert guess(network(*outputs, size=size)).decoder == "raw"


def test_a_map_of_one_score_is_a_mask_if_its_name_or_its_labels_say_so() -> None:
    graph = network((1, 96, 96, 1), size=96)
    assert guess(graph, About(labels=("selfie",))).labels == ("background", "selfie")
    named = Graph([graph.tensors[0], Tensor("segment_back", (1, 96, 96, 1), "float32")], graph.ops, (0,), (1,))
    assert guess(named).decoder == "segmentation"


def test_what_a_yolos_exporter_says_decides() -> None:
    pose = network((1, 56, 8400), size=640)
    found = guess(pose, About(("person",), task="pose", keypoints=17))
    check_card(found, pose)
    assert (found.decoder, found.keypoints) == ("yolov8", COCO_KEYPOINTS)
    assert guess(pose, About(tuple("ab" * 26), task="detect")).keypoints == ()
    segment = network((1, 300, 38), (1, 160, 160, 32), size=640)
    assert guess(segment, About(tuple("ab" * 40), task="segment")).decoder == "yolo_end_to_end"
    assert guess(network((1, 300, 57), size=640), About(("person",), task="pose", keypoints=17)).keypoints == COCO_KEYPOINTS
    assert guess(network((1, 20, 8400), size=640), About(tuple("ab" * 7), task="obb")).decoder == "raw"
    odd = network((1, 7, 1029), size=256)  # of other strides than the usual
    assert guess(odd, About(("a", "b", "c"), task="detect")).decoder == "yolov8" and guess(odd).decoder == "raw"


def test_pixels_go_in_as_the_file_says() -> None:
    graph = network((1, 1000), size=224)
    assert guess(graph, About(scale=(0.5,), offset=(-1.0,))).input.scale == 0.5
    each = guess(graph, About(scale=(0.5, 0.25, 0.125), offset=(0.0, 0.0, -1.0))).input
    assert each.scale == (0.5, 0.25, 0.125) and each.offset == (0.0, 0.0, -1.0)


def test_an_input_is_a_state_only_if_its_name_says_so() -> None:
    shapes = {"image": (1, 64, 64, 3), "second": (1, 8), "out": (1, 8)}
    tensors = [Tensor(name, shape, "float32") for name, shape in shapes.items()]
    graph = Graph(tensors, network((1, 8)).ops, (0, 1), (2,))
    assert guess(graph).state == {}
    tensors[1] = Tensor("hidden_in", (1, 8), "float32")
    assert guess(Graph(tensors, graph.ops, (0, 1), (2,))).state == {"out": "hidden_in"}
