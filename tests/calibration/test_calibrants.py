"""Calibrants: pyFAI's lists and own files."""

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hklflow.base.errors import HklflowError
from hklflow.calibration.calibrants import files_of, read_calibrant

GOOD = "# Si of the house\n3.1357  # (1 1 1)\n\n 1.9202\n1.6376 # 8 35.7\n0.5\n"


def write(folder, text):
    path = folder / "house.D"
    path.write_text(text, encoding="utf-8")
    return path


def test_own_file(tmp_path):
    path = write(tmp_path, GOOD)
    found = read_calibrant(str(path))
    assert (found.name, found.source) == ("house", str(path))
    np.testing.assert_array_equal(found.d, [3.1357, 1.9202, 1.6376, 0.5])
    text = "3.13570000\n1.92020000\n1.63760000\n0.50000000\n"
    assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert found.record()["sha256"] == found.sha256
    # 0.5 Å is out of reach of 1.2 Å.
    angles = found.two_theta(1.2)
    np.testing.assert_allclose(1.2 / (2 * np.sin(angles / 2)), [3.1357, 1.9202, 1.6376])


def test_a_file_that_pyfai_wrote(tmp_path):
    from pyFAI.calibrant import get_calibrant

    d = np.array(get_calibrant("LaB6").dspacing)
    path = write(tmp_path, "# as pyFAI\n" + "\n".join(f"{value:.8f}" for value in d))
    named, own = read_calibrant("LaB6"), read_calibrant(path)
    assert named.source.startswith("pyFAI ")
    assert named.name == "LaB6"
    # One list has one hash, wherever it comes from.
    assert own.sha256 == named.sha256


@pytest.mark.parametrize("name", ["C60", "vanadinite", "CeO2"])
def test_lists_fall(name):
    """pyFAI's C60 and vanadinite are not sorted."""
    assert np.all(np.diff(read_calibrant(name).d) < 0)


def test_rings_keep_their_numbers(tmp_path):
    path = write(tmp_path, GOOD)
    found = read_calibrant(path, max_rings=3, purge_rings=[1])
    assert found.used.tolist() == [True, False, True, False]
    assert len(found.two_theta(0.4)) == 4
    record = found.record()
    assert (record["max_rings"], record["purged_rings"]) == (3, [1])
    everything = read_calibrant(path).record()
    assert (everything["max_rings"], everything["purged_rings"]) == (None, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3.1\n1.9x\n", r"'1.9x' in line 2 of .*house.D is not a number"),
        ("3.1\n-1.9\n", r"d = -1.9 in line 2 .* not positive"),
        ("nan\n", r"d = nan in line 1 .* not positive"),
        ("0\n", "not positive"),
        ("inf\n", "not positive"),
        ("3.1\n3.1\n", r"d = 3.1 in line 2 .* is not below"),
        ("1.9\n# c\n3.1\n", r"d = 3.1 in line 3 .* the value before \(1.9\)"),
        ("# nothing\n", "has no d-spacings"),
    ],
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(HklflowError, match=message):
        read_calibrant(write(tmp_path, text))


def test_bad_choices(tmp_path):
    path = write(tmp_path, GOOD)
    for options, message in (
        ({"max_rings": 0}, "max_rings=0"),
        ({"purge_rings": [4]}, "4 is not a ring of house, which has 4"),
        ({"purge_rings": [-1]}, "-1 is not a ring"),
        ({"max_rings": 1, "purge_rings": [0]}, "leave none of the .* rings of house"),
    ):
        with pytest.raises(HklflowError, match=message):
            read_calibrant(path, **options)
    with pytest.raises(HklflowError, match=r"not know the calibrant 'Cheese'.*Cheese\.D.*CeO2"):
        read_calibrant("Cheese")
    with pytest.raises(HklflowError, match=r"cannot be read from .*none\.D"):
        read_calibrant(tmp_path / "none.D")
    (tmp_path / "binary.D").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HklflowError, match="cannot be read"):
        read_calibrant(tmp_path / "binary.D")


@given(st.lists(st.floats(0.3, 60), min_size=1, max_size=30))
def test_a_list_is_accepted_only_if_it_falls(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("d") / "x.D"
    path.write_text("\n".join(map(repr, values)))
    if all(a > b for a, b in itertools.pairwise(values)):
        np.testing.assert_array_equal(read_calibrant(path).d, values)
    else:
        with pytest.raises(HklflowError, match="is not below"):
            read_calibrant(path)


def entry(folder, text, name="house"):
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_folder_has_calibrants_with_their_own_rings(tmp_path):
    path = entry(tmp_path, "calibrant: LaB6\nmax_rings: 6\npurge_rings: [1, 3]\n")
    whole, found = read_calibrant("LaB6"), read_calibrant(path)
    np.testing.assert_array_equal(found.d, whole.d)
    assert found.sha256 == whole.sha256
    assert np.flatnonzero(found.used).tolist() == [0, 2, 4, 5]
    assert "LaB6 of pyFAI" in found.source
    record = found.record()
    assert record["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (record["max_rings"], record["purged_rings"]) == (6, [1, 3])
    # A calibration leaves out more rings; it cannot use those that the folder leaves out.
    less = read_calibrant(path, max_rings=5, purge_rings=[0])
    assert np.flatnonzero(less.used).tolist() == [2, 4]
    assert np.flatnonzero(read_calibrant(path, max_rings=50).used).tolist() == [0, 2, 4, 5]
    own = read_calibrant(entry(tmp_path, "d_spacings: [3.0, 2.0, 1.0]\n", "mine"))
    assert own.d.tolist() == [3.0, 2.0, 1.0]
    write(tmp_path, GOOD)
    with pytest.raises(HklflowError, match="2 files of the calibrant house"):
        files_of(tmp_path)
    path.unlink()
    assert [file.name for file in files_of(tmp_path)] == ["house.D", "mine.yaml"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_rings: 3\n", "has neither `calibrant` and `d_spacings`"),
        ("calibrant: Si\nd_spacings: [1.0]\n", "has both `calibrant` and `d_spacings`"),
        ("calibrant: Si\nrings: 3\n", "rings: Extra inputs"),
        ("calibrant: Si\nmax_rings: 0\n", "max_rings: .*greater than or equal to 1"),
        ("calibrant: Si\npurge_rings: [99999]\n", "99999 is not a ring"),
        ("calibrant: Sy\n", "does not know the calibrant 'Sy'"),
        ("d_spacings: [1.0, 2.0]\n", "d = 2.0 in d_spacings of .* is not below"),
        ("d_spacings: [-1.0]\n", "not positive"),
        ("- a\n", "is no calibrant"),
        ("a: [\n", "is no calibrant"),
    ],
)
def test_a_wrong_entry_is_told(tmp_path, text, told):
    with pytest.raises(HklflowError, match=told):
        read_calibrant(entry(tmp_path, text))
