"""Mask files: what their text means, and every problem in one report."""

from pathlib import Path

import numpy as np
import pytest
from pyFAI.detectors import detector_factory

from hklflow.base.errors import HklflowError
from hklflow.images.mask_shapes import draw
from hklflow.images.masks import MaskBit
from hklflow.stage import mask_steps

SHAPE = (40, 60)


def drawn(folder: Path, text: str, shape=SHAPE):
    path = folder / "mask.yaml"
    path.write_text(text)
    return draw(shape, mask_steps.read(path).core_steps(shape))


def rectangle(rows, columns, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def test_steps_of_a_file_apply_in_its_order(tmp_path):
    np.save(tmp_path / "hole.npy", rectangle((0, 40), (8, 12)))
    text = """\
# The mask of a beamline
- shape: rectangle
  slow_min: 10
  slow_max: 20
  fast_min: 5
  fast_max: 25
- {image: hole.npy, op: subtract, comment: "the gap, in the end"}
- {shape: rectangle, slow_min: 12, slow_max: 13, fast_min: 0, fast_max: 60}
- {edges: 1}
"""
    found = drawn(tmp_path, text)
    border = ~rectangle((1, 39), (1, 59))
    expected = rectangle((10, 20), (5, 25)) & ~rectangle((0, 40), (8, 12))
    expected |= rectangle((12, 13), (0, 60)) | border
    assert np.array_equal(found.bits != 0, expected)
    assert set(np.unique(found.bits)) == {0, MaskBit.USER}
    assert found.changes == ((200, 0), (0, 40), (44, 0), (border.sum() - 2, 0))
    # In another order another mask: the image frees nothing.
    lines = text.splitlines()
    other = drawn(tmp_path, "\n".join([lines[6], *lines[1:6], *lines[7:]]))
    assert other.changes[:2] == ((0, 0), (200, 0))
    assert (other.bits != 0).sum() == expected.sum() + 36


def test_names_and_images(tmp_path):
    text = """
- {shape: ring, slow: 3, fast: 3, inner: 0, outer: 2, comment: ice}
- {image: sub/a.tif}
- {image: "../b.h5:/entry/mask", bad: zero}
- {edges: 2, detector: Pilatus 1M}
- {detector: Pilatus 1M}
"""
    (tmp_path / "mask.yaml").write_text(text)
    found = mask_steps.read(tmp_path / "mask.yaml")
    assert [str(image) for image in found.images()] == ["sub/a.tif", "../b.h5"]
    assert [mask_steps.name(step) for step in found.steps] == [
        "ring: ice",
        "image sub/a.tif",
        "image ../b.h5:/entry/mask",
        "edges 2 of Pilatus 1M",
        "gaps of Pilatus 1M",
    ]


def test_gaps_and_module_edges_of_a_named_detector(tmp_path):
    gaps = detector_factory("Pilatus 300k").mask != 0
    shape = gaps.shape
    found = drawn(tmp_path, "- {detector: Pilatus 300k}\n", shape)
    assert np.array_equal(found.bits, np.where(gaps, MaskBit.GAP, 0))
    found = drawn(tmp_path, "- {edges: 3, detector: pilatus_300k}\n", shape)
    # Three modules of 195 x 487; what is left is 189 x 481 of each.
    assert (found.bits == 0).sum() - gaps.sum() == 3 * 189 * 481
    assert not (found.bits != 0)[gaps].any()
    # An edge without its detector is that of the whole image.
    found = drawn(tmp_path, "- {edges: 3}\n", shape)
    assert (found.bits == 0).sum() == (shape[0] - 6) * (shape[1] - 6)
    # A pixel that a gap hides can be freed: this file alone masked it.
    text = "- {detector: Pilatus 300k}\n"
    text += "- {shape: circle, slow: 200, fast: 99, radius: 2, op: subtract}\n"
    found = drawn(tmp_path, text, shape)
    assert found.bits[200, 99] == 0
    assert found.freed[200, 99]


def test_the_arm_of_a_beamstop_is_in_degrees(tmp_path):
    text = "- {shape: beamstop, slow: 20.5, fast: 10.5, radius: 3, arm_angle: 90, arm_width: 1"
    found = drawn(tmp_path, text + "}\n").bits != 0
    # Towards +slow, to the border.
    assert np.argwhere(found[30:]).tolist() == [[row, 10] for row in range(10)]
    assert not found[:17].any()
    found = drawn(tmp_path, text + ", arm_length: 12.2}\n").bits != 0
    assert np.flatnonzero(found[:, 10]).tolist() == list(range(17, 33))


def test_a_file_without_steps_masks_nothing(tmp_path):
    for text in ("", "# nothing yet\n", "[]\n"):
        assert drawn(tmp_path, text).changes == ()


def test_every_problem_is_told_with_its_step_and_line(tmp_path):
    text = """\
- {shape: circle, slow: 1, fast: 2, radius: -3, colour: red}
- {shape: square, slow: 1}
-
- {edges: 2}
- {shape: rectangle, slow_min: 3, slow_max: 1, fast_min: 0, fast_max: 2}
- slow: 3
- {shape: circle, slow: .nan, fast: 2, radius: 1}
- {shape: circle, slow: 1, slow: 2, fast: 2, radius: 1}
- {shape: polygon, corners: [[1, 2], [3, 4]]}
- {image: a.tif, op: xor, bad: one}
- {image: a.tif, shape: circle}
"""
    (tmp_path / "mask.yaml").write_text(text)
    with pytest.raises(HklflowError) as told:
        mask_steps.read(tmp_path / "mask.yaml")
    lines = str(told.value).splitlines()
    assert lines[0] == f"10 problems in {tmp_path / 'mask.yaml'}:"
    for number, line in zip((1, 2, 3, 5, 6, 7, 8, 9, 10, 11), lines[1:], strict=True):
        assert line.startswith(f"  step {number} (line {number}): ")
    assert "radius: " in lines[1]
    assert "-3" in lines[1]
    assert "colour: " in lines[1]
    words = {2: "square", 3: "key: value", 4: "height=-2", 5: "shape, edges", 6: "nan"}
    words |= {7: "slow is given twice", 8: "three or more", 10: "a.tif"}
    for line, word in words.items():
        assert word in lines[line]
    assert "op: " in lines[9]
    assert "bad: " in lines[9]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"shape: circle\n", "is not a list"),
        (b"just text\n", "is not a list"),
        (b"- {shape: circle\n", "not valid YAML"),
        (b"- {shape: circle, comment: \xff}\n", "not UTF-8"),
    ],
)
def test_what_is_no_mask_file(tmp_path, text, told):
    (tmp_path / "mask.yaml").write_bytes(text)
    with pytest.raises(HklflowError, match=told):
        mask_steps.read(tmp_path / "mask.yaml")
    with pytest.raises(HklflowError, match="does not exist"):
        mask_steps.read(tmp_path / "gone.yaml")


def test_problems_of_images_are_told_together(tmp_path):
    np.save(tmp_path / "small.npy", np.zeros((4, 5)))
    text = "- {image: small.npy}\n- {edges: 1}\n- {image: gone.tif}\n- {detector: Pilatus 1M}\n"
    text += "- {edges: 1, detector: nonsense}\n"
    with pytest.raises(HklflowError) as told:
        drawn(tmp_path, text)
    lines = str(told.value).splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("  step 1 (image small.npy): the mask has 4 × 5 pixels")
    assert "the image 40 × 60" in lines[1]
    assert lines[2].startswith("  step 3 (image gone.tif): ")
    assert "1043 × 981" in lines[3]
    assert lines[4].startswith("  step 5 (edges 1 of nonsense): ")


@pytest.mark.parametrize(
    "name", ["Pilatus 1M", "pilatus_100k", "Eiger2 CdTe 1M", "Jungfrau 1M", "Lambda 2M"]
)
def test_gaps_are_those_of_pyfai(name):
    mask = detector_factory(name).mask
    assert np.array_equal(mask_steps.detector_gaps(name, mask.shape), mask != 0)


def test_gaps_of_a_pilatus_1m_are_where_its_modules_are_not():
    """By the maker's drawing: 5 x 2 modules of 195 x 487 pixels, 17 and 7 pixels apart."""
    good = np.zeros((1043, 981), bool)
    for row in range(5):
        for column in range(2):
            good[212 * row : 212 * row + 195, 494 * column : 494 * column + 487] = True
    assert np.array_equal(mask_steps.detector_gaps("Pilatus 1M", good.shape), ~good)


def test_a_detector_that_is_not_known_or_of_another_shape():
    with pytest.raises(HklflowError, match="does not know"):
        mask_steps.detector_gaps("/etc/hosts", (981, 1043))
    with pytest.raises(HklflowError, match=r"has 1043 × 981 pixels .* the image 981 × 1043"):
        mask_steps.detector_gaps("Pilatus 1M", (981, 1043))
