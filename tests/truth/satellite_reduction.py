"""What the program says of a simulated series with satellites, without files."""

import numpy as np

from hklflow.bragg import satellites, star_arms
from hklflow.bragg.satellite_course import Course
from hklflow.geometry.grid import Grid
from hklflow.volumes import boxes as boxes_module
from hklflow.volumes import satellite_voxels, star_boxes
from tests.truth.satellite_worlds import HALF, STEP, World

SCALE_ERROR = 0.01
BOX, SHELL, MEASURED = (0.12, 0.12, 0.3), 2, 0.95


def every(hkl: np.ndarray) -> np.ndarray:
    """Return True for all reflections: the lattice is primitive."""
    return np.ones(len(hkl), np.bool_)


def measured(world: World) -> tuple[Course, star_arms.Arms | None]:
    """Return what the program says of a world whose vector is searched near that of the cold."""
    grid = Grid.symmetric(STEP * HALF, STEP)
    scans = [world.scan(i) for i in range(len(world.temperature))]
    operations = world.crystal.operations()
    # The vector that gates find in the coldest scan.
    vector = np.round(world.vectors[0], 3)
    star = satellite_voxels.star_of(vector, operations, every)
    arms = star_boxes.star(star.vector, operations)
    boxes = star_boxes.places(grid, arms, BOX, SHELL, 200)

    def reader(scan):
        return lambda region: (scan[0][region], scan[1][region], scan[0][region])

    reads = [reader(scan) for scan in scans]
    counted = star_boxes.table([[box] * len(reads) for _, box in boxes], reads, MEASURED).settled()
    placed = satellite_voxels.places_of(star, [point for point, _ in boxes], BOX, every)
    rows = [row for row, _ in placed if not np.isnan(counted.counts[row]).any()]
    places = [place for row, place in placed if row in rows]
    counted = counted.select(rows)
    course = satellites.course_of(
        world.temperature, grid, reads, star, places, counted, BOX, SHELL, MEASURED
    )
    if course.moves:
        moved = [
            [
                boxes_module.box_at(grid, place.hkl(star, vector), BOX, SHELL)
                for vector in course.vectors
            ]
            for place in places
        ]
        counted = star_boxes.table(moved, reads, MEASURED).settled()
    arms = star_arms.compared(
        star,
        course.mean,
        operations,
        places,
        counted,
        np.ones(counted.counts.shape),
        satellites.reach(BOX, SHELL, STEP),
        np.isin(np.arange(len(reads)), course.seen),
        SCALE_ERROR,
        every,
    )
    return course, arms
