"""Factors of runs without the crystal on the frames of a rotation, and the crystal's course.

The source of a run counts ``m(z) f(z) B(p)`` with the crystal in place. f depends on the
transmission of the crystal, whose course is that of the level between the peaks without the counts
of the runs (see `images.surrounded`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hklflow.stage.background_runs import Averaged, contained, where
from hklflow.stage.background_settings import Named
from hklflow.stage.frame_curve import Curve, Signal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from hklflow.images.surrounded import Surroundings
    from hklflow.images.surroundings import Part

    Floats = NDArray[np.float64]


class Known(NamedTuple):
    """Transmission of the crystal for a run.

    Attributes
    ----------
    values : (n_frames,) array
    error : float
        Relative error.
    unknown : bool
        True if it was not given.
    """

    values: "Floats"
    error: float
    unknown: bool


class Pixels(NamedTuple):
    """Pixels of the signal of `frame_scale`.

    Attributes
    ----------
    signal, annulus : (slow, fast) bool array
        Pixels of the signal; pixels between the peaks.
    parts : list of (slow, fast) bool array
        Pixels of the parts of the annulus.
    """

    signal: "NDArray[np.bool_]"
    annulus: "NDArray[np.bool_]"
    parts: "list[NDArray[np.bool_]]"


class Factors:
    """Factors of the runs of a rotation.

    Parameters
    ----------
    images : list of Averaged
    scales, errors : (n_runs,) arrays
        Factor of each run besides monitor and transmission, and its relative error.
    """

    def __init__(self, images: "list[Averaged]", scales: "Floats", errors: "Floats") -> None:
        self.images, self.scales, self.errors = images, scales, errors
        self.runs = [image.run for image in images]

    def direct(self, n_frames: int) -> "Floats":
        """Return the parts (n_runs, n_frames) of the factors that do not follow the course.

        If a run has a transmission of its own, from a file, its whole factor is known.
        """
        import numpy as np

        from hklflow.images import surroundings

        found = np.empty((len(self.runs), n_frames))
        for row, run, scale in zip(found, self.runs, self.scales, strict=True):
            values = text_transmission(run, n_frames)
            through = np.zeros(n_frames) if values is None else values
            share = run.share or 0.0
            row[:] = scale * surroundings.frame_factor(run.seen_through, through, share)
        return self._apart(found)

    def total(self, course: "Floats", alone: "Sequence[int] | None" = None) -> "Floats":
        """Return the factors (n_runs, n_frames), for the course of the transmission.

        Parameters
        ----------
        course : (n_frames,) array
            Transmission of the crystal, divided by its median.
        alone : list of int, optional
            Numbers of the sources; None: all.
        """
        import numpy as np

        from hklflow.images import surroundings

        found = np.zeros((len(self.runs), len(course)))
        for i in range(len(self.runs)) if alone is None else alone:
            run, known = self.runs[i], transmission(self.runs[i], course)
            share = run.share or 0.0
            factor = surroundings.frame_factor(run.seen_through, known.values, share)
            found[i] = self.scales[i] * factor
        return self._apart(found)

    def _apart(self, factors: "Floats") -> "Floats":
        """Return factors that count what a run contains of other runs only once.

        With the runs ``B`` and ``B + A``, the sum ``f_B B + f_A A`` is ``f_A (B + A) + (f_B - f_A)
        B``. In general the runs are (1 + C) times the sources, with C = 1 where a run contains a
        source, and the factors of the runs are those of the sources times the inverse matrix.
        """
        import numpy as np

        sums = np.eye(len(self.runs)) + contained(self.runs)
        return np.asarray(np.linalg.solve(sums.T, factors))

    def parts(self, course: "Floats", alone: "Sequence[int] | None" = None) -> "list[Part]":
        """Return the backgrounds with their factors; see `total`."""
        from hklflow.images.surroundings import Part

        return [
            Part(image.run.name, image.level, image.variance, factor, self._error(i, course))
            for i, (image, factor) in enumerate(
                zip(self.images, self.total(course, alone), strict=True)
            )
        ]

    def _error(self, number: int, course: "Floats") -> float:
        """Return the relative error of the level of a source."""
        import numpy as np

        from hklflow.images import surroundings

        run = self.runs[number]
        known, share = transmission(run, course), run.share or 0.0
        factor = surroundings.frame_factor(run.seen_through, known.values, share)
        through = factor - surroundings.frame_factor(run.seen_through, 0 * known.values, share)
        return float(np.hypot(np.mean(through * known.error / factor), self.errors[number]))

    def require_positive(self, parts: "list[Part]") -> "list[Part]":
        """Return backgrounds whose factors are 0 or more.

        Raises
        ------
        HklflowError
            If the factor of a contained run would become negative.
        """
        from hklflow.base.errors import HklflowError

        for run, part in zip(self.runs, parts, strict=True):
            if part.factor.min() < -1e-9:
                raise HklflowError(
                    f"the factor of {run.name} is {part.factor.min():.3g} after the runs that "
                    "contain it are subtracted: it is weakened more than they are; correct "
                    "`contains`, `seen_through`, or the transmissions"
                )
        return [part._replace(factor=part.factor.clip(0)) for part in parts]

    def course(self, signal: Signal, curve: Curve, pixels: Pixels | None) -> "Floats":
        """Return the transmission (n_frames,) of the crystal, divided by its median.

        Raises
        ------
        HklflowError
            If the background is larger than the signal.
        """
        from hklflow.images import frame_scale

        around: Floats | float = 0.0
        if pixels is not None:
            around = self._level(pixels.signal) @ self.direct(len(signal.incident))
        found = signal.transmission(curve, around)
        return frame_scale.course(found, signal.absorption)

    def _level(self, pixels: "NDArray[np.bool_]", which: int = 0) -> "Floats":
        """Return the mean of each run over pixels, or (1) the variance of the mean."""
        import numpy as np

        from hklflow.images.surrounded import mean_level

        return np.array([mean_level(i.level, i.variance, pixels)[which] for i in self.images])

    def _direct_error(self, number: int, course: "Floats") -> float:
        """Return the relative error of the part of a source that does not follow the course.

        A fitted factor fixes the sum of both parts, so the error of the transmission is in each.
        """
        run = self.runs[number]
        if run.scale == "fit" or isinstance(run.transmission, Path):
            return self._error(number, course)
        return float(self.errors[number])

    def surroundings(self, parts: "list[Part]", pixels: Pixels, course: "Floats") -> "Surroundings":
        """Return the counts of the runs in the signal of `frame_scale`."""
        import numpy as np

        from hklflow.images.surrounded import Surroundings

        factors = np.array([part.factor for part in parts])
        direct = self.direct(factors.shape[1]).mean(axis=1)
        relative = [self._direct_error(i, course) for i in range(len(self.runs))]
        common = np.linalg.norm(relative * direct * self._level(pixels.signal))
        noise = direct**2 @ self._level(pixels.signal, 1)
        return Surroundings(
            self._level(pixels.signal) @ factors,
            self._level(pixels.annulus) @ factors,
            np.array([self._level(one) @ factors for one in pixels.parts]).T,
            float(np.sqrt(common**2 + noise)),
        )


def transmission(run: Named, course: "Floats") -> Known:
    """Return the transmission of the crystal for a run.

    Raises
    ------
    HklflowError
        If it is above 1, or its file is wrong.
    """
    import numpy as np

    from hklflow.base.errors import HklflowError

    if isinstance(run.transmission, Path):
        values = text_transmission(run, len(course))
        assert values is not None
        return Known(values, run.transmission_error, False)
    if run.transmission is None:
        unknown = run.seen_through != "not"
        # The middle of the interval 0 to 1, and the standard deviation of its even distribution.
        return Known(0.5 * course / course.max(), 1 / np.sqrt(3) if unknown else 0.0, unknown)
    values = run.transmission * course
    if values.max() > 1:
        raise HklflowError(
            f"`{where(run)}: transmission` is {run.transmission:g} for the median frame, and with "
            f"the course of `frame_scale` {values.max():.4g} for the largest: a transmission is at "
            "most 1; give a file with the transmission of each frame, or `frame_scale: {source: "
            "none}`"
        )
    return Known(values, run.transmission_error, False)


def text_transmission(run: Named, n_frames: int) -> "NDArray[np.float64] | None":
    """Read the transmission of each frame from the user's file, if there is one."""
    import warnings

    import numpy as np

    from hklflow.base.errors import HklflowError

    if not isinstance(run.transmission, Path):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # an empty file is refused below
            values = np.loadtxt(run.transmission, dtype=np.float64, ndmin=1)
    except (ValueError, UnicodeDecodeError) as error:
        raise HklflowError(
            f"{run.transmission} is not a text file of numbers ({error}); write one transmission "
            "of the crystal in each row"
        ) from None
    if values.shape != (n_frames,) or not np.all((values > 0) & (values <= 1)):
        inside = f" from {values.min():g} to {values.max():g}" if values.size else ""
        raise HklflowError(
            f"{run.transmission} has an array of {values.shape} numbers{inside}; give one "
            f"transmission of the crystal, above 0 and at most 1, for each of the {n_frames} frames"
        )
    return values


def interval(run: Named, course: "Floats") -> str | None:
    """Return the warning for an unknown transmission; None if it is known."""
    import numpy as np

    from hklflow.images import surroundings

    known, share = transmission(run, course), run.share or 0.0
    if not known.unknown:
        return None
    low, high = (
        float(np.mean(surroundings.frame_factor(run.seen_through, x * known.values, share)))
        for x in (0.0, 2.0)
    )
    return (
        f"the transmission of the crystal is not known: the background {run.name} is between "
        f"{low:.0%} and {high:.0%} of its run, and {(low + high) / 2:.0%} is subtracted; give "
        f"`{where(run)}: {{transmission: ...}}`"
    )
