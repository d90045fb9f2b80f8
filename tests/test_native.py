"""cctbx beside the rest of the stack: each order of imports in a process of its own."""

import subprocess
import sys

import pytest

from tests.patience import PATIENCE

OTHERS = ("scipy.linalg", "pyFAI", "hdf5plugin", "numba", "matplotlib.pyplot", "nexusformat.nexus")

WORKS = """
import numpy as np, scipy.linalg, scipy.optimize
from cctbx import sgtbx
assert sgtbx.space_group_info("Fd-3m").group().order_z() == 192
matrix = np.random.default_rng(1).normal(size=(60, 40))
u, s, vt = scipy.linalg.svd(matrix, full_matrices=False)
assert np.allclose(u * s @ vt, matrix)
fit = scipy.optimize.least_squares(lambda x: matrix @ x - matrix @ np.ones(40), np.zeros(40))
assert np.allclose(fit.x, 1)
print("fine")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS)
def test_cctbx_after_another_extension(other: str) -> None:
    done = run(f"import hklflow\nimport {other}\nimport cctbx.array_family.flex\n{WORKS}")
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr


@pytest.mark.slow
def test_cctbx_before_and_after_all_the_others() -> None:
    first = "import cctbx.array_family.flex\n"
    rest = "".join(f"import {other}\n" for other in OTHERS)
    for order in (first + rest, "".join(f"import {other}\n" for other in OTHERS[::-1]) + first):
        done = run(f"import hklflow\n{order}{WORKS}")
        assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr


@pytest.mark.parametrize(
    "use",
    [
        "from hklflow.geometry import symmetry\nsymmetry.space_group('P1')",
        "from hklflow.geometry import sensor\nsensor.attenuation('Si', 0.7)",
        "from hklflow.formats import imgcif\nimgcif.read_imgcif('_axis.id X', (1, 1), 'x')",
    ],
)
def test_too_late_is_an_import_error_not_a_crash(use: str) -> None:
    done = run(f"import scipy.optimize\nimport hklflow\n{use}")
    assert done.returncode == 1, done
    assert "ImportError: scipy.linalg" in done.stderr
    assert "put `import hklflow` first" in done.stderr


def test_geometry_without_symmetry_needs_no_cctbx() -> None:
    done = run(
        "import sys, hklflow\nfrom hklflow.geometry import lattice, symmetry\n"
        "print('cctbx' in sys.modules)"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
