"""Phase transitions of simulated worlds: parent, child, axes, strain, modulation; see worlds.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Transition:
    """Parent and child: axes of the child in columns P of parent axes, strain size·form."""

    system: str
    parent: str
    child: str
    P: tuple[tuple[int, int, int], ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    form: tuple[tuple[float, float, float], ...] = ((0, 0, 0),) * 3  # parent's Cartesian axes
    q: tuple[float, float, float] | None = None  # incommensurate satellites


_C = ((-0.5, 0, 0), (0, -0.5, 0), (0, 0, 1.0))
_XY = ((0, 1.0, 0), (1.0, 0, 0), (0, 0, 0))
TRANSITIONS = {
    "cubic-tetragonal": Transition("cubic", "Pm-3m", "P4mm", form=_C),
    "tetragonal-orthorhombic": Transition(
        "tetragonal", "I4/mmm", "Fmmm", ((1, 1, 0), (-1, 1, 0), (0, 0, 1)), _XY
    ),
    "orthorhombic-monoclinic": Transition(
        "orthorhombic", "Pmmm", "P2/m", form=((0, 0, -1.0), (0, 0, 0), (-1.0, 0, 0))
    ),
    "cubic-rhombohedral": Transition(
        "cubic",
        "Pm-3m",
        "R3m:H",
        ((1, 0, 1), (-1, 1, 1), (0, -1, 1)),
        ((0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)),
    ),
    "doubling-111": Transition("cubic", "Pm-3m", "Fm-3m", ((2, 0, 0), (0, 2, 0), (0, 0, 2))),
    "doubling-001": Transition("tetragonal", "P4/mmm", "P4/mmm", ((1, 0, 0), (0, 1, 0), (0, 0, 2))),
    "doubling-100": Transition("orthorhombic", "Pmmm", "Pmmm", ((2, 0, 0), (0, 1, 0), (0, 0, 1))),
    "tripling": Transition("hexagonal", "P6/mmm", "P6/mmm", ((2, -1, 0), (1, 1, 0), (0, 0, 1))),
    "cubic-I4/mcm": Transition("cubic", "Pm-3m", "I4/mcm", ((1, 1, 0), (-1, 1, 0), (0, 0, 2)), _C),
    "cubic-Pnma": Transition(
        "cubic",
        "Pm-3m",
        "Pnma",
        ((1, 0, -1), (0, 2, 0), (1, 0, 1)),
        ((0.3, 0, 0.8), (0, -0.6, 0), (0.8, 0, 0.3)),
    ),
    "incommensurate": Transition("tetragonal", "P4/mmm", "P4/mmm", q=(0, 0, 1)),
    "incommensurate-a": Transition("orthorhombic", "Pnma", "Pnma", q=(1, 0, 0)),
}

_ORTHO = ((0.5, 0, 0), (0, -0.5, 0), (0, 0, 0))
_SHEAR_XZ = ((0, 0, -1.0), (0, 0, 0), (-1.0, 0, 0))
_ORTHOHEXAGONAL = ((2, 0, 0), (1, 1, 0), (0, 0, 1))
_DIAGONAL = ((1, 1, 0), (-1, 1, 0), (0, 0, 1))
MORE_TRANSITIONS = {  # not in the catalogue, so that its worlds stay the same
    "tetragonal-orthorhombic-P": Transition("tetragonal", "P4/mmm", "Pmmm", form=_ORTHO),
    "hexagonal-orthorhombic": Transition("hexagonal", "P6/mmm", "Cmmm", _ORTHOHEXAGONAL, _ORTHO),
    "hexagonal-trigonal": Transition("hexagonal", "P63/mmc", "P-3m1"),
    "trigonal-monoclinic": Transition("trigonal", "P-3m1", "C2/m", _ORTHOHEXAGONAL, _SHEAR_XZ),
    "orthorhombic-triclinic": Transition(
        "orthorhombic",
        "Pmmm",
        "P-1",
        form=((0, 0.5, -0.8), (0.5, 0, 0.6), (-0.8, 0.6, 0)),
    ),
    "lost-I": Transition("tetragonal", "I4/mmm", "P4/mmm"),
    "lost-F": Transition("cubic", "Fm-3m", "Pm-3m"),
    "lost-I-strain": Transition("tetragonal", "I4/mmm", "Pmmm", form=_ORTHO),
    "first-order": Transition("cubic", "Pm-3m", "Pm-3m", form=((1, 0, 0), (0, 1, 0), (0, 0, 1))),
    "one-arm": Transition("tetragonal", "P4/mmm", "Pmmm", ((2, 0, 0), (0, 1, 0), (0, 0, 1))),
    "centred-doubling": Transition("tetragonal", "I4/mmm", "P4/mmm", _DIAGONAL),
    "doubling-strain": Transition(
        "tetragonal", "P4/mmm", "Pmmm", ((2, 0, 0), (0, 1, 0), (0, 0, 1)), _ORTHO
    ),
    "doubling-c-shear": Transition(
        "tetragonal", "P4/mmm", "Cmmm", ((1, 1, 0), (-1, 1, 0), (0, 0, 2)), _XY
    ),
    "doubling-ab-shear": Transition("tetragonal", "P4/mmm", "Pmmm", _DIAGONAL, _XY),
    "doubling-monoclinic": Transition(
        "orthorhombic", "Pmmm", "P2/m", ((1, 0, 0), (0, 2, 0), (0, 0, 1)), _SHEAR_XZ
    ),
    "hexagonal-doubling-strain": Transition("hexagonal", "P6/mmm", "Pmmm", _ORTHOHEXAGONAL, _ORTHO),
    "lost-I-shear": Transition("tetragonal", "I4/mmm", "Cmmm", _DIAGONAL, _XY),
    "iron-arsenide": Transition("tetragonal", "I4/mmm", "Ammm", _DIAGONAL, _XY),
    "tripling-strain": Transition(
        "orthorhombic", "Pmmm", "P2/m", ((3, 0, 0), (0, 1, 0), (0, 0, 1)), _SHEAR_XZ
    ),
    "incommensurate-strain": Transition("tetragonal", "P4/mmm", "Pmmm", form=_ORTHO, q=(1, 0, 0)),
}
EVERY_TRANSITION = TRANSITIONS | MORE_TRANSITIONS
