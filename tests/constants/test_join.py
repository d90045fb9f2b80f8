"""ASICs joined to modules, and modules to the detector's file."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.constants import files
from hklflow.constants.detectors import integrating
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.status import Bit
from hklflow.images.masks import MaskBit
from hklflow.stages import join_constants, join_module

SIZE, ASIC = (8, 4), (2, 2)
DETECTOR = integrating("agipd", SIZE, ASIC)
CELLS = [0, 3, 5]


def _whole(module: int) -> dict[str, Quantity]:
    """Quantities of a module, every value of which is another."""
    rng = np.random.default_rng(module)
    return {
        "offset": Quantity(rng.normal(5000, 300, (3, 3, *SIZE)).astype(np.float32), "ADU"),
        "gain": Quantity(
            rng.normal(8, 1, (3, 3, *SIZE)).astype(np.float32),
            "ADU/keV",
            {"source": ["xray", "combined", "current_source"]},
        ),
        "chosen_current": Quantity(rng.integers(0, 4, (3, *SIZE)).astype(np.uint16)),
        "constants_status": Quantity(rng.integers(0, 9, (3, 3, *SIZE)).astype(np.uint32)),
        "pixel_mask": Quantity(rng.integers(0, 3, SIZE).astype(np.uint32)),
    }


def _about(module: int, **more: Any) -> dict[str, Any]:
    known = {"detector": "agipd", "module": module, "digital": "level", "cell_ids": CELLS}
    return known | {"runs": [["r1"]], "measures": ["dark_high"]} | more


def _split(folder: Path, module: int, numbers: list[int]) -> list[Path]:
    """Write the ASICs of a module, each its part of the module's arrays."""
    paths = []
    for number in numbers:
        box = DETECTOR.box(number)
        parts = {
            name: Quantity(item.values[..., *box], item.units, item.attrs)
            for name, item in _whole(module).items()
        }
        path = folder / f"m{module}_a{number}.nxs"
        files.write_part(path, "an ASIC", Constants(_about(module, asic=number), parts))
        paths.append(path)
    return paths


def _join(folder: Path, module: int, numbers: list[int]) -> Path:
    path = folder / f"module{module}_{len(numbers)}.nxs"
    join_module.main(
        inputs=join_module.Inputs(asics=_split(folder, module, numbers)),
        outputs=join_module.Outputs(constants=path),
        params=join_module.Params(
            detector="agipd", module=module, numbers=tuple(numbers), module_size=SIZE,
            asic_size=ASIC,
        ),
    )  # fmt: skip
    return path


@pytest.mark.parametrize("turned", [False, True])
def test_joining_what_was_split_gives_it_back(tmp_path: Path, turned: bool) -> None:
    numbers = list(range(8))
    joined = files.read_part(_join(tmp_path, 3, numbers[::-1] if turned else numbers))
    for name, item in _whole(3).items():
        assert joined[name].tobytes() == item.values.tobytes()
        assert joined[name].dtype == item.values.dtype
        assert joined.quantities[name].units == item.units
    assert list(joined.quantities["gain"].attrs["source"]) == ["xray", "combined", "current_source"]
    assert joined.about["absent_asics"] == []
    assert joined.about["cell_ids"] == CELLS


def test_an_absent_asic_is_masked_and_the_others_are_as_they_were(tmp_path: Path) -> None:
    joined = files.read_part(_join(tmp_path, 1, [0, 1, 2, 4, 5, 6, 7]))
    box = DETECTOR.box(3)
    assert np.isnan(joined["offset"][..., *box]).all()
    assert (joined["constants_status"][..., *box] == Bit.NO_DARK_DATA).all()
    assert (joined["pixel_mask"][box] == MaskBit.DEAD).all()
    assert (joined["chosen_current"][..., *box] == 0).all()
    there = np.ones(SIZE, bool)
    there[box] = False
    for name, item in _whole(1).items():
        assert np.array_equal(joined[name][..., there], item.values[..., there])
    assert joined.about["absent_asics"] == [3]


def test_modules_and_an_absent_one(tmp_path: Path) -> None:
    parts = [_join(tmp_path, module, list(range(8))) for module in (0, 2)]
    path = tmp_path / "constants.nxs"
    join_constants.main(
        inputs=join_constants.Inputs(modules=parts),
        outputs=join_constants.Outputs(constants=path),
        params=join_constants.Params(numbers=(0, 2), absent=(1,)),
    )
    with files.open_constants(path) as constants:
        assert constants.modules == (0, 1, 2)
        assert constants.about["absent_modules"] == [1]
        for module in (0, 2):
            for name, item in _whole(module).items():
                assert np.array_equal(constants.module(module)[name], item.values)
        absent = constants.module(1)
        assert np.isnan(absent["gain"]).all()
        assert (absent["pixel_mask"] == MaskBit.DEAD).all()
        assert absent.about["module"] == 1
        with pytest.raises(HklflowError, match=r"no module 7 \(it has 0, 1, 2\)"):
            constants.module(7)


def test_an_asic_in_the_wrong_place_is_refused(tmp_path: Path) -> None:
    first, second = _split(tmp_path, 0, [0, 1])
    group = join_module.Outputs(constants=tmp_path / "out.nxs")
    params = join_module.Params(
        detector="agipd", module=0, numbers=(0, 1), module_size=SIZE, asic_size=ASIC
    )
    with pytest.raises(HklflowError, match="has ASIC 1 of module 0, not ASIC 0 of module 0"):
        join_module.main(
            inputs=join_module.Inputs(asics=[second, first]), outputs=group, params=params
        )


def test_asics_with_other_memory_cells_are_refused(tmp_path: Path) -> None:
    paths = _split(tmp_path, 0, [0, 1])
    other = files.read_part(paths[1])
    files.write_part(
        paths[1], "an ASIC", Constants(other.about | {"cell_ids": [0, 1, 2]}, other.quantities)
    )
    with pytest.raises(HklflowError, match="other quantities or memory cells"):
        join_module.main(
            inputs=join_module.Inputs(asics=paths),
            outputs=join_module.Outputs(constants=tmp_path / "out.nxs"),
            params=join_module.Params(
                detector="agipd", module=0, numbers=(0, 1), module_size=SIZE, asic_size=ASIC
            ),
        )


def test_what_is_no_file_of_constants_is_refused_in_a_sentence(tmp_path: Path) -> None:
    whole = tmp_path / "constants.nxs"
    with files.create_detector(whole, "constants", {"detector": "agipd"}) as group:
        part = Constants({"module": 0}, {"offset": Quantity(np.zeros((3, 1, 2, 2)))})
        files.add_quantities(group.create_group("module_00"), part)
        group.create_group("module_x")
    with files.open_constants(whole) as constants:
        assert constants.modules == (0,)

    def broken(change: Callable[[h5py.File], None]) -> str:
        path = tmp_path / "broken.nxs"
        shutil.copy(whole, path)
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(HklflowError) as error, files.open_constants(path) as constants:
            _ = constants.module(0).about
        return str(error.value)

    def number(file: h5py.File) -> None:
        del file["entry/definition"]
        file["entry/definition"] = 3

    def no_about(file: h5py.File) -> None:
        file["entry/instrument/detector/module_00"].attrs["about"] = "{not json"

    def link(file: h5py.File) -> None:
        del file["entry/instrument/detector/module_00/offset"]
        file["entry/instrument/detector/module_00/offset"] = h5py.ExternalLink("a.nxs", "offset")

    assert "contains no detector constants" in broken(number)
    assert "has no valid description" in broken(no_about)
    assert "offset is a link to another file" in broken(link)
