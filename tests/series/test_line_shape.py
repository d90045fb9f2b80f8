"""Line shapes of short-range order against sums over resolution and voxel."""

import numpy as np
import pytest

from hklflow.series.line_shape import Smearing, chains, lattice, selling

SMEARING = Smearing(np.diag([0.02, 0.025, 0.03]) ** 2, np.array([0.05, 0.04, 0.06]))
TILTED = Smearing(np.array([[4.0, 2, 0], [2, 4, 0], [0, 0, 9]]) * 1e-4, np.full(3, 0.05))
AXES = [np.array([0.0, 0.05, 0.13, 0.4])] * 3
PLACES = [(0, 0, 0), (1, 0, 0), (1, 1, 1), (2, 1, 0), (3, 0, 0), (3, 3, 3)]
ORTHOGONAL = np.diag(1 / np.array([0.1, 0.05, 0.03]) ** 2)
HEXAGONAL = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 2]]) / 0.06**2
ROD = np.diag([1 / 0.04**2, 1 / 0.07**2, 0.0])


def averaged(function, smearing: Smearing, place: np.ndarray) -> float:
    """Mean of a function of hkl over a Gaussian and a voxel, by quadrature."""
    x, w = np.polynomial.hermite_e.hermegauss(41)
    y, u = np.polynomial.legendre.leggauss(3)
    root = np.linalg.cholesky(smearing.covariance)
    points = np.stack(np.meshgrid(x, x, x, indexing="ij"), -1).reshape(-1, 3) @ root.T
    weights = np.einsum("i,j,k->ijk", w, w, w).ravel() / w.sum() ** 3
    inner = np.stack(np.meshgrid(y, y, y, indexing="ij"), -1).reshape(-1, 3) / 2 * smearing.step
    shares = np.einsum("i,j,k->ijk", u, u, u).ravel() / 8
    return sum(
        s * weights @ function(place + z + points) for z, s in zip(inner, shares, strict=True)
    )


def mean_of_cell(function) -> float:
    e = (np.arange(80) + 0.5) / 80
    return function(np.stack(np.meshgrid(e, e, e, indexing="ij"), -1).reshape(-1, 3)).mean()


@pytest.mark.parametrize(
    ("form", "bonds", "smearing"),
    [
        (ORTHOGONAL, {(1, 0, 0): 100.0, (0, 1, 0): 400.0, (0, 0, 1): 1e4 / 9}, SMEARING),
        # Three equal bonds in the plane make it isotropic.
        (
            HEXAGONAL,
            dict.fromkeys([(1, 0, 0), (0, 1, 0), (1, 1, 0)], 0.5 / 0.06**2)
            | {(0, 0, 1): 2 / 0.06**2},
            TILTED,
        ),
        (ROD, {(1, 0, 0): 625.0, (0, 1, 0): 1 / 0.07**2}, SMEARING),
    ],
    ids=["orthogonal", "hexagonal", "rod"],
)
def test_the_lattice_model_is_that_of_its_bonds(
    form: np.ndarray, bonds: dict[tuple[int, int, int], float], smearing: Smearing
) -> None:
    def f(hkl: np.ndarray) -> np.ndarray:
        return 1 / (1 + sum(j * np.sin(np.pi * hkl @ n) ** 2 for n, j in bonds.items()) / np.pi**2)

    table = lattice(form, smearing).on(AXES)
    mean = mean_of_cell(f)
    for place in PLACES:
        at = np.array([axis[i] for axis, i in zip(AXES, place, strict=True)])
        assert table[place] == pytest.approx(averaged(f, smearing, at) / mean, rel=1e-3)


def test_chains_are_products_whose_correlations_decrease_exponentially() -> None:
    x = np.array([0.7, 1.5, np.inf])

    def f(hkl: np.ndarray) -> np.ndarray:
        h, k, _ = hkl.T
        return np.prod(
            [
                np.sinh(a) / (np.cosh(a) - np.cos(2 * np.pi * y))
                for a, y in zip(x[:2], (h, k), strict=True)
            ],
            axis=0,
        )

    table = chains(x, SMEARING).on(AXES)
    for place in PLACES:
        at = np.array([axis[i] for axis, i in zip(AXES, place, strict=True)])
        assert table[place] == pytest.approx(averaged(f, SMEARING, at), rel=1e-4)
    assert mean_of_cell(f) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("kappa", [0.16, 0.01, 1e-3])
def test_the_integral_over_the_cell_is_one(kappa: float) -> None:
    axes = [np.arange(-0.5, 0.5, step) for step in (0.05, 0.04, 0.0625)]
    # The cell is 1 long: voxels of 0.04 fill it, of 0.0625 too.
    smearing = Smearing(SMEARING.covariance, np.array([0.05, 0.04, 0.0625]))
    table = lattice(np.eye(3) / kappa**2, smearing).on(axes)
    assert table.mean() == pytest.approx(1, rel=1e-3)


def test_a_form_is_the_sum_of_its_bonds() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        root = rng.normal(size=(3, 3)) * rng.uniform(0.2, 5, 3)
        form = root @ root.T
        vectors, weights = selling(form)
        assert np.all(weights >= 0)
        assert np.all(vectors == np.rint(vectors))
        back = np.einsum("n,ni,nj->ij", weights, vectors, vectors)
        np.testing.assert_allclose(back, form, atol=1e-9 * np.trace(form))
