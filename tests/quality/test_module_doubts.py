"""A displaced module makes a refinement doubtful, with its place, its shift and the cure."""

import numpy as np
from tests.truth import convergence as made
from tests.truth.defaults import limits

from hklflow.geometry.modules import Modules
from hklflow.orientation.refinement import refine
from hklflow.quality import doubts, gates
from hklflow.stage.scan_limits import ScanLimits


def said(shift: tuple[float, float], modules: Modules | None) -> list[str]:
    truth = made.scan(seed=2, shifts=np.array([[0.0, 0.0], [0.0, 0.0], shift, [0.0, 0.0]]))
    start = made.start(truth)
    refined = refine(
        start.rotations, truth.peaks, start.ub, truth.group, free=made.FREE, limits=limits()
    )
    ones = [np.ones(len(own.frame)) for own in truth.peaks]
    named = doubts.Named("quartz", "300K", ["r1", "r2"], [0, 0])
    figures = doubts.doubts(
        refined, truth.peaks, ones, ones, truth.group, made.FREE, named, modules
    )
    return [text for text in gates.doubtful(figures, ScanLimits().limits()) if "module" in text]


def test_a_displaced_module_is_told_with_its_cure() -> None:
    modules = Modules.ideal(made.BOXES)
    (told,) = said((1.2, -0.8), modules)
    assert told.startswith("module 2 (slow 104 to 200, fast 0 to 96) is displaced by +1.")
    assert "--level module --bragg quartz/300K" in told
    assert said((0.0, 0.0), modules) == []
    assert said((1.2, -0.8), None) == []  # nothing tells where the modules are
    assert said((0.05, 0.02), modules) == []  # known, but too little to matter
