"""Fill holes of S(Q) with what is most likely for the pair distribution that the rest of S has.

T = w (S − μ) is S without its mean μ(|Q|), times a taper w, so that it is known everywhere but in
the holes h; its transform D(r) is a pair distribution. D of each r is taken for Gaussian with mean
0 and variance V(r), which contains the noise. With Λ = F* V⁻¹ F (F: Fourier transform) and m for
the measured voxels, the holes are then most likely

    T_h = −(Λ_hh)⁻¹ Λ_hm T_m,  with the covariance (Λ_hh)⁻¹,

which conjugate gradients find. V is learnt by expectation and maximisation (Dempster et al., J. R.
Stat. Soc. B 39, 1, 1977): V ← <|D|² + var D> over a neighbourhood of r, where var D is what the
holes leave open, from random fields that are punched and filled likewise. No structure is assumed.
In volumes with gaps, V is as sharp as D can be (`WavePower.sharp`) if that is likelier: the
farther a voxel is from the measured ones, the more its value depends on V between the peaks of D.
Where distances between atoms have weight, V is large. Far from the origin V is noise, so that an
offset that all holes share, which would stand at each lattice vector, is removed.

V differs from a constant V∞ in a box of r only (`box_of`), so that
Λ = 1/V∞ − F* (1/V∞ − 1/V) F needs no other waves.
"""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.volumes import fill_kernels
from hklflow.volumes.cosine_waves import CosineWaves
from hklflow.volumes.fill import PUNCHED, UNMEASURED, Target
from hklflow.volumes.hole_waves import Voxels, Waves
from hklflow.volumes.tapered import LEAST, Tapered, taper_of
from hklflow.volumes.wave_box import box_of
from hklflow.volumes.wave_power import WavePower, unlikeliness
from hklflow.volumes.white_field import WhiteField

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Indices = NDArray[np.int64]
Reals = NDArray[np.floating]

#: Name of this fill among the interpolants.
NAME = "spectrum of the pair distribution"

#: Rounds of `SpectrumFill.learn`: more change the result by less than its noise.
ROUNDS = 3

# Change of the fill in a round, in its errors, after which the next would change it by far less.
_SETTLED = 0.1

#: Part of the residual that conjugate gradients leave, while V is learnt and at the end. With gaps
#: it is less, because maxima in their middle are found last.
LEARNING, TOLERANCE = 1e-3, 1e-4
_LEARNING_IN_GAPS, _TOLERANCE_IN_GAPS = 1e-4, 1e-6
# Largest number of steps while V is learnt, and at the end. Holes of reflections take some 20; wide
# gaps, to which only long waves reach, up to some 200 where 100 counts were measured.
_STEPS, _LAST_STEPS, _STEPS_IN_GAPS = 40, 120, 1000
# Bytes that `SpectrumFill` needs, measured: per voxel of the grid, and per voxel in a box of r.
_BYTES, _BYTES_OF_BOX = 3, 20
# More per voxel in the box with gaps, for `WavePower.sharp`, measured.
_BYTES_OF_SHARP = 11
# Residual that is left of what a fill misses of a cosine.
_ROUGHLY = 3e-2
# Least variance of a filled voxel, in variances of a measured one.
_LEAST_ERROR = 0.02
# In volumes with gaps: voxels of holes that are drawn for their errors, largest number of fields,
# and groups of voxels with about the same error by kriging.
_DRAWN, _MOST_FIELDS, _PARTS = 200_000, 16, 10


class TooLargeError(Exception):
    """The fill needs more memory than it may take.

    Attributes
    ----------
    needed : float
        Bytes, without the volume itself.
    """

    def __init__(self, needed: float) -> None:
        super().__init__(f"the fill by the spectrum needs {needed / 1e6:.0f} MB")
        self.needed = needed


def bytes_needed(shape: tuple[int, ...], box: tuple[int, ...] = (0,)) -> float:
    """Return the memory that `SpectrumFill` needs, without the volume itself.

    Parameters
    ----------
    shape : (3,) tuple of int
        Voxels of the grid.
    box : (3,) tuple of int
        Numbers of waves that are kept, see `Waves`; by default, the least that may be needed.
    """
    return float(_BYTES * np.prod(shape, dtype=float) + _BYTES_OF_BOX * np.prod(box, dtype=float))


class SpectrumFill:
    """Fill of the holes of a volume that are filled by other means already.

    Parameters
    ----------
    target : Target
        S with values in its holes, which are the start, and their errors by kriging.
    q_max : float
        End of the taper, 1/Å; voxels near it and beyond are not changed.
    threads : int
    reach : float, optional
        Length of r in Å beyond which nothing of the holes' errors is left; None: unknown. Beyond
        it, V is learnt only as far as D exceeds its noise.
    memory : float
        Largest number of bytes to take.

    Raises
    ------
    TooLargeError
        If D exceeds its noise so far that the memory is too small.

    Attributes
    ----------
    holes : (n,) int array
        Flat numbers of the voxels in holes in the grid, ascending.
    steps : int
        Steps of conjugate gradients so far.
    converged : bool
        False if the last system needed more steps than are allowed; after `write`, also if one of
        the drawn fields did.
    settled : bool
        True if the last round of `learn` changed next to nothing.
    missed : list of (n,) arrays
        Errors of T with its noise, drawn with the final V; empty if there are no gaps.
    """

    def __init__(
        self,
        target: Target,
        q_max: float,
        threads: int = 1,
        reach: float | None = None,
        memory: float = np.inf,
    ) -> None:
        self._target = target
        self._random = np.random.default_rng(0)
        self.steps, self.converged, self.settled = 0, True, False
        self._tapered = Tapered(target, q_max)
        gaps = self._tapered.gaps
        self._steps = _STEPS_IN_GAPS if gaps else _STEPS
        self._last_steps = _STEPS_IN_GAPS if gaps else _LAST_STEPS
        self._learning = _LEARNING_IN_GAPS if gaps else LEARNING
        self._tolerance = _TOLERANCE_IN_GAPS if gaps else TOLERANCE
        self.holes = self._tapered.holes()
        middle = _inversion_centre(target)
        self._waves = Waves(target.data.shape, middle or (0, 0, 0), middle is not None, threads)
        self._orbits = self._numbered_orbits()
        self._voxels = Voxels(self._waves, self.holes)
        self._t = self._tapered.t_of(self.holes).astype(np.float64)
        self._known, self._squares = self._waves_of_known(reach, memory)
        # Equivalent voxels have the same noise, so that their waves add up.
        self._noise = len(target.images) * self._tapered.noise / self._waves.size
        self._gain: dict[int, tuple[Floats, Floats]] = {}
        self.missed: list[Floats] = []
        self._power = WavePower(self._waves, target, taper_of(q_max) if gaps else None)
        self._cosines = CosineWaves(self._waves, target.grid, target.cell, q_max)
        self._white = WhiteField(self._waves, self._voxels, self._random)
        power = self._power.of(self._known + self._voxels.waves_of(self._t))
        self._set_variance(power, float(self._t @ self._t), sharp=False)

    @property
    def unit(self) -> float:
        """Unit of T, in units of S."""
        return self._tapered.unit

    def learn(self) -> None:
        """Fill the holes with V as it is known, and learn V from the result."""
        missed = self._missed()
        self._gain = self._gains([missed])
        lost = self._power.of(self._voxels.waves_of(missed))
        before = self._t
        self._t = self._complete(self._voxels, self._known, self._t, self._steps, self._learning)
        change = self._t - before
        self.settled = float(change @ change) < _SETTLED**2 * float(missed @ missed)
        lost += self._power.of(self._known + self._voxels.waves_of(self._t))
        squares = float(self._t @ self._t + missed @ missed)
        self._set_variance(lost, squares, sharp=self._tapered.gaps)

    def write(self) -> int:
        """Replace S and σ in the holes of the target; return the number of voxels."""
        target = self._target
        given = self._known, self._t, self._last_steps, self._tolerance
        self._t = self._complete(self._voxels, *given)
        filled = self.converged
        self._draw()
        self.converged = self.converged and filled
        s = self._tapered.s_of(self._t, self.holes)
        # On the rim, where the taper is too small, kriging is kept.
        written = np.isfinite(s)
        numbers = self.holes[written]
        places = np.unravel_index(numbers, target.data.shape)
        target.data[places] = s[written]
        target.errors[places] = self._errors_of(target.errors[places], numbers, target.code[places])
        fill_kernels.average(target.data, target.errors, target.code, target.images)
        return len(numbers)

    def read(self) -> None:
        """Read the measured voxels of the target again; V is held."""
        self._known = self._waves_of_known(None)[0]

    def change(self) -> Floats:
        """Return how S in the holes (n,) follows a change of the measured voxels of the target.

        The change is that since they were read; the fill is linear in S as long as V is held.
        """
        change = self._waves_of_known(None)[0]
        change -= self._known
        t = self._complete(
            self._voxels, change, np.zeros(len(self.holes)), self._steps, self._learning
        )
        w = self._tapered.weights(self.holes).astype(np.float64)
        # Where the taper is smaller, kriging is kept.
        followed = np.divide(t, w, out=np.zeros_like(t), where=w >= self._tapered.least)
        return followed * self._tapered.unit

    def predicted(
        self, voxels: Indices, errors: Floats, tolerance: float = TOLERANCE
    ) -> tuple[Floats, Floats]:
        """Return S and σ that measured voxels (n, 3), (l, k, h), get if they are punched, too.

        Their equivalents, which tell their values, are then holes as well. NaN near q_max and
        beyond. ``errors`` (n,) are those of kriging. ``tolerance`` is the residual that is left.
        """
        shape = self._target.data.shape
        more = self._with_equivalents(voxels)
        more = more[self._tapered.weights(more) >= LEAST]
        more = more[~_among(self.holes, more)]
        known = Voxels(self._waves, more).waves_of(self._tapered.t_of(more))
        np.subtract(self._known, known, out=known)
        places = np.searchsorted(self.holes, more)
        union, start = np.insert(self.holes, places, more), np.insert(self._t, places, 0.0)
        given = known, start, self._last_steps, tolerance
        t = self._complete(Voxels(self._waves, union), *given)
        numbers = np.ravel_multi_index(tuple(voxels.T), shape)
        place = np.minimum(np.searchsorted(union, numbers), len(union) - 1)
        found = np.where(_among(union, numbers), t[place], np.nan)
        code = np.full(len(voxels), PUNCHED, np.uint8)
        return self._tapered.s_of(found, numbers), self._errors_of(errors, numbers, code)

    def _with_equivalents(self, voxels: Indices) -> Indices:
        """Return the flat numbers, ascending, of voxels (n, 3), (l, k, h), and of their images."""
        images, shape = self._target.images, self._target.data.shape
        moved = voxels[:, ::-1] @ images[:, :, :3].swapaxes(1, 2) + images[:, None, :, 3]
        moved = moved[..., ::-1].reshape(-1, 3)
        inside = np.all((moved >= 0) & (moved < shape), axis=1)
        return np.unique(np.ravel_multi_index(tuple(moved[inside].T), shape))

    def signal(self, vectors: Floats) -> Floats:
        """Return the share of V that is not noise at vectors (n, 3), in unit cells."""
        # The noise of the waves, as if there were no holes.
        share = float(np.sum(self._tapered.weights(self.holes).astype(np.float64) ** 2))
        noise = self._noise / (1 - share / self._tapered.taper)
        waves, step = self._waves, self._target.grid.step
        places = (vectors * step)[:, ::-1] * np.array(waves.periods)
        whole = np.floor(places).astype(int)
        v, box = np.zeros(len(vectors)), np.array(waves.box)
        ends = np.array([waves.halves(axis) for axis in range(3)])
        for corner in np.ndindex(2, 2, 2):
            at = whole + corner
            weights = np.prod(1 - np.abs(places - at), axis=1)
            at = np.where(at[:, 2:] < 0, -at, at)
            inside = np.all((at >= -ends[:, 1]) & (at < ends[:, 0]), axis=1)
            found = np.full(len(vectors), self._beyond)
            found[inside] = self._variance[tuple((at[inside] % box).T)]
            v += weights * found
        signal: Floats = np.maximum(1 - noise / v, 0.0)
        return signal

    def recovered(self, vector: Floats) -> float:
        """Return the share of a cosine of S that the ΔPDF has at a vector (3,), in unit cells.

        The fill is linear in S as long as V is held, so that no noise is needed. The cosine is the
        mean over equivalent vectors.
        """
        target = self._target
        step = target.grid.step
        images = target.images[:, :, :3] * step[:, None] / step
        mates = np.unique(np.round(vector @ images, 9) + 0.0, axis=0)
        # The cosine of r is that of −r, and the lower half of the sorted mates is the other's.
        opposite = (mates[::-1] == -mates).all()
        mates = mates[: (len(mates) + 1) // 2] if opposite else mates
        known, whole = self._cosines.of(mates)
        hkl = self._hkl
        cosine = np.mean([np.cos(2 * np.pi * hkl @ mate) for mate in mates], axis=0)
        lost = self._cosines.taper(hkl) * cosine
        # Λ_hh (filled − lost) is −Λ times the whole cosine.
        right = self._voxels.of_waves(known, self._weights) - lost / self._beyond
        wrong = self._solved(self._voxels, right, np.zeros(len(hkl)), self._steps, _ROUGHLY)
        return 1 + float(cosine @ wrong) / whole

    @cached_property
    def _hkl(self) -> Floats:
        """Return hkl (n, 3) of the holes."""
        grid = self._target.grid
        index = np.stack(np.unravel_index(self.holes, self._target.data.shape)[::-1], axis=1)
        return grid.first + index * grid.step

    # -------------------------------------------------------------------------- σ

    def _draw(self) -> None:
        """If there are gaps, draw what the fill misses, and set the errors.

        What a voxel misses is drawn with V. A vector's share of V is not known for sure to be as
        small as `WavePower.sharp` finds it, so that `missed` has the mean of |D|² around each r.
        """
        if self._tapered.gaps:
            fields = int(np.clip(_DRAWN // max(len(self.holes), 1), 1, _MOST_FIELDS))
            drawn, every = self._drawn(fields, self._variance)
            self._gain = self._gains(drawn)
            self.missed, self.converged = drawn, every
            if self._mean is not self._variance:
                self.missed, self.converged = self._drawn(fields, self._mean)
                self.converged = self.converged and every

    def _drawn(self, number: int, variance: Singles) -> tuple[list[Floats], bool]:
        """Return what fills of random fields miss, and True if all converged."""
        fields, every = [], True
        for _ in range(number):
            fields.append(self._missed(variance))
            every = every and self.converged
        return fields, every

    def _gains(self, fields: list[Floats]) -> dict[int, tuple[Floats, Floats]]:
        """Return the ratio of the errors of T to those of kriging, for each kind of hole.

        The kriging knows where in a hole S is known least, the random fields (n,) how well on
        average. In volumes with gaps, kriging is wrong by other factors the deeper a voxel lies, so
        that the ratio depends on the error of kriging.

        Returns
        -------
        dict of (parts,) arrays
            Error of kriging, ascending, and the ratio.
        """
        places = np.unravel_index(self.holes, self._target.data.shape)
        code = self._target.code[places]
        kriged = self._target.errors[places] / self._tapered.unit
        # What is missed contains the noise of the field, which is no error of S.
        noise = self._noise / len(self._target.images)
        # Reflections that q_max cuts have other errors by kriging.
        inner = (self._tapered.weights(self.holes) > 0.5) | (code == UNMEASURED)
        gains = {}
        for kind in (PUNCHED, UNMEASURED):
            own = (code == kind) & inner
            own = own if own.any() else code == kind
            numbers = np.flatnonzero(own)
            if not len(numbers):
                continue
            parts = [numbers]
            if self._tapered.gaps:
                quantiles = np.quantile(kriged[numbers], np.arange(1, _PARTS) / _PARTS)
                group = np.searchsorted(np.unique(quantiles), kriged[numbers], side="right")
                parts = [numbers[group == i] for i in np.unique(group)]
            means, ratios = [], []
            for part in parts:
                squares = [float(np.mean(missed[part] ** 2)) for missed in fields]
                variance = sum(squares) / len(squares) - noise
                mean = float(np.mean(kriged[part].astype(np.float64) ** 2))
                means.append(np.sqrt(mean))
                ratios.append(np.sqrt(max(variance, _LEAST_ERROR * noise) / mean))
            gains[kind] = np.array(means), np.array(ratios)
        return gains

    def _errors_of(self, kriged: Reals, numbers: Indices, code: NDArray[np.uint8]) -> Floats:
        """Return σ of S from that of kriging.

        The error of T is that of a random field, whose noise is the mean noise of T, or larger if
        the noise of T is: where the taper is larger than its rms.
        """
        w, least = self._tapered.weights(numbers), self._tapered.least
        gain = np.full(len(kriged), np.nan)
        for kind, of_kriged in self._gain.items():
            own = code == kind
            # A power law between groups: σ is between theirs, however far they are apart.
            at = np.maximum(kriged[own] / self._tapered.unit, of_kriged[0][0])
            gain[own] = np.exp(np.interp(np.log(at), *np.log(of_kriged)))
        rms_taper = float(np.sqrt(self._tapered.taper / self._waves.size))
        errors = np.asarray(gain * kriged / np.clip(w, least, rms_taper), dtype=np.float64)
        errors[w < least] = np.nan
        return errors

    # -------------------------------------------------------------------------- V

    def _waves_of_known(
        self, reach: float | None, memory: float = np.inf
    ) -> tuple[NDArray[Any], float]:
        """Choose the box; return the waves of T with zero in holes, and the sum of T² there."""
        waves, places = self._waves, self._waves.places_of_grid()
        squares = 0.0

        def plane(place: int) -> Singles:
            nonlocal squares
            l = (place + waves.middle[0]) % waves.periods[0]  # noqa: E741
            t = self._tapered.plane(l)
            squares += (2 if waves.even and place else 1) * float(np.vdot(t, t))
            return waves.padded(t)

        planes = waves.planes_of(plane, places)
        if reach is not None:
            waves.box = box_of(waves, planes, places, self._target, reach)
        needed = bytes_needed(waves.shape, waves.box)
        if self._tapered.gaps:
            needed += _BYTES_OF_SHARP * float(np.prod(waves.box, dtype=float))
        if needed > memory:
            raise TooLargeError(needed)
        return waves.of_planes(planes, places), squares

    def _set_variance(self, power: Singles, squares: float, sharp: bool) -> None:
        """Set V, and V∞: means of |D|² around each r and beyond the box, at least the noise.

        Parameters
        ----------
        power : (l, k, h) array
            See `WavePower.of`.
        squares : float
            Sum over the holes of T² and of what is lost.
        sharp : bool
            True if V may be as sharp as D; kriging is too rough for that.
        """
        beyond = self._noise
        outside = self._waves.size - int(np.prod(self._waves.box))
        if outside:
            # All but a few r have as many equivalents as there are operations.
            left = self._squares + squares - self._power.total(power)
            beyond = max(beyond, len(self._target.images) * left / outside)
        mean = np.maximum(self._power.around(power), np.float32(self._noise))
        self._mean = self._variance = mean
        if sharp:
            sharper = self._power.sharp(power, self._noise)
            # Correlated displacements are not sharp, and their fill would be worse.
            if unlikeliness(power, sharper) < unlikeliness(power, mean):
                self._variance = sharper
        self._beyond = beyond
        # 1/V∞ − 1/V, with the scale of the transforms.
        weights = np.divide(-1, self._variance, dtype=np.float32)
        weights += np.float32(1 / beyond)
        weights /= np.float32(self._waves.size)
        self._weights: Singles = weights

    # -------------------------------------------------------------------------- holes

    def _complete(
        self,
        voxels: Voxels,
        known: NDArray[Any],
        start: Floats,
        most: int,
        tolerance: float,
    ) -> Floats:
        """Return the most likely T (n,) in voxels.

        Parameters
        ----------
        voxels : Voxels
        known : (l, k, h) array
            Waves of T with zero in the voxels.
        start : (n,) array
        most : int
            Largest number of steps.
        tolerance : float
            Residual that is left.
        """
        return self._solved(voxels, voxels.of_waves(known, self._weights), start, most, tolerance)

    def _solved(
        self,
        voxels: Voxels,
        right: Floats,
        start: Floats,
        most: int,
        tolerance: float,
    ) -> Floats:
        """Return x with Λ_hh x = right, by conjugate gradients."""
        weights = self._weights
        x = start.astype(np.float64)
        left = right.copy()
        if x.any():
            left -= x / self._beyond - voxels.filtered(x, weights)
        end = tolerance**2 * float(right @ right)
        step, size = left.copy(), float(left @ left)
        for _ in range(most):
            if size <= end:
                break
            moved = step / self._beyond - voxels.filtered(step, weights)
            length = size / float(step @ moved)
            x += length * step
            left -= length * moved
            size, before = float(left @ left), size
            step *= size / before
            step += left
            self.steps += 1
        self.converged = size <= end
        return x

    def _missed(self, drawn: Singles | None = None) -> Floats:
        """Return what the fill of a random field with the symmetry of S misses in the holes (n,).

        The field is t = F* U^(1/2) F n with white noise n, and its fill misses
        t_h + Λ_hh⁻¹ Λ_hm t_m = Λ_hh⁻¹ (F* V⁻¹ U^(1/2) F n)_h, U = ``drawn``
        (l, k, h); None: V.
        """
        waves = self._waves
        in_box, in_holes = self._white.drawn()
        # The search starts at the field itself, so that what is not found counts as missed.
        fields = []
        root = np.sqrt(self._variance if drawn is None else drawn)
        beyond = self._beyond**0.5
        for factor, least in ((root, beyond), (root / self._variance, 1 / beyond)):
            scale = (factor - np.float32(least)) / np.float32(waves.size)
            values = in_holes * least + self._voxels.of_waves(scale * in_box)
            fields.append(self._symmetric(values))
        start, right = fields
        return self._solved(self._voxels, right, start, self._steps, self._learning)

    def _symmetric(self, values: Floats) -> Floats:
        """Return the means (n,) of values in holes over their equivalents."""
        mean: Floats = np.bincount(self._orbits, values) / np.bincount(self._orbits)
        return mean[self._orbits]

    def _numbered_orbits(self) -> Indices:
        """Return a number for each voxel of the holes, which its equivalents share."""
        least = fill_kernels.canonical(self.holes, self._target.images, self._target.data.shape)
        least = np.where(least < 0, self.holes, least)
        return np.unique(least, return_inverse=True)[1].reshape(-1)


def _among(numbers: Indices, some: Indices) -> NDArray[np.bool_]:
    """Return which of some numbers are among ascending ones."""
    place = np.searchsorted(numbers, some)
    return np.append(numbers, -1)[place] == some


def _inversion_centre(target: Target) -> tuple[int, ...] | None:
    """Return the voxel (l, k, h) at the inversion centre of a volume; None if there is none."""
    ends = np.array(target.data.shape[::-1]) - 1
    inversion = np.column_stack([-np.eye(3, dtype=np.int64), ends])
    if (ends % 2).any() or not (target.images == inversion).all(axis=(1, 2)).any():
        return None
    half = len(target.code) // 2 + 1
    for plane, image in zip(target.code[:half], target.code[::-1][:half], strict=True):
        if (plane != image[::-1, ::-1]).any():
            return None
    return tuple(int(end) // 2 for end in ends[::-1])
