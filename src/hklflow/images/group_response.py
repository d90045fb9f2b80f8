"""Response and statistics of groups of pixels.

A group's response is the mean response of its good pixels, weighted by the counts that ideal pixels
expect. It is relative: the mean over all good pixels is 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.masks import BoolImage
from hklflow.images.pixel_groups import PixelGroups
from hklflow.images.pixel_moments import Moments

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROUNDS = 500
_SETTLED = 1e-8  # relative change of the factors in a round


@dataclass(frozen=True)
class GroupResponse:
    """Relative response of each group, arrays (n,).

    Attributes
    ----------
    factors, errors : array
        Response relative to the mean over the good pixels, and its standard error (with the error
        of this mean). NaN for groups without good pixels.
    pixels : int array
        Number of good pixels.
    chi2 : float or None
        χ² per degree of freedom of the model that gave the factors; None without a model.
    """

    factors: Floats
    errors: Floats
    pixels: Ints
    chi2: float | None = None

    def image(self, groups: PixelGroups, good: BoolImage) -> tuple[Floats, Floats]:
        """Return factors and errors of the good pixels (slow, fast); NaN for other pixels."""
        factors, errors = (np.concatenate([[np.nan], x]) for x in (self.factors, self.errors))
        chosen = np.where(good, groups.labels, 0)
        return factors[chosen], errors[chosen]

    def about(self, groups: PixelGroups) -> dict[str, Any]:
        """Return plain data for the record: definition, and the factor of each group by name."""
        known = np.isfinite(self.factors)
        rows = zip(groups.names, self.factors, self.errors, self.pixels, known, strict=True)
        return {
            "rule": groups.rule,
            "factors": {
                name: {"factor": float(f), "error": float(e), "pixels": int(n)}
                for name, f, e, n, has in rows
                if has
            },
            "without good pixels": [n for n, has in zip(groups.names, known, strict=True)
                                    if not has],
            **({} if self.chi2 is None else {"chi2": self.chi2}),
        }  # fmt: skip


def of_pixels(
    response: Floats, errors: Floats, weights: Floats, good: BoolImage, groups: PixelGroups
) -> GroupResponse:
    """Return the response of the groups from the response of the pixels.

    Parameters
    ----------
    response, errors : (slow, fast) array
        Response of each pixel and its standard error.
    weights : (slow, fast) array
        Expected counts of an ideal pixel. (Weights from the counts of a pixel would be biased.)
    good : (slow, fast) bool array
        Pixels that are used; each must be in a group.

    Raises
    ------
    HklflowError
        If the groups are for another shape, or leave good pixels out.
    """
    groups.require(good.shape)
    groups.require_partition(~good)
    labels, n = groups.labels[good] - 1, len(groups.names)

    def sums(values: Floats) -> Floats:
        return np.asarray(np.bincount(labels, values, minlength=n), np.float64)

    weight = weights[good]
    total = sums(weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        raw = sums(weight * response[good]) / total
        sigma = np.sqrt(sums((weight * errors[good]) ** 2)) / total
    return _relative(raw, np.diag(np.nan_to_num(sigma) ** 2), groups.counts(~good))


def of_scan(
    counts: Floats, exposure: Floats, angle: Floats, good: BoolImage, groups: PixelGroups, bins: int
) -> GroupResponse:
    """Return the response of the groups from isotropic scattering that is not known.

    Self-calibration: a pixel counts ``n ~ Poisson(E f_g p(2θ))``, with the exposure E of an ideal
    pixel, the factor f of its group and a radial profile p. Both are the maximum of the likelihood,
    found by alternate scaling (iterative proportional fitting; Deming & Stephan, Ann. Math. Stat.
    11, 427, 1940). The errors are from the Fisher information, in which the profile is free.

    Parameters
    ----------
    counts, exposure : (slow, fast) array
        Counts between the reflections; expected counts for a scattering of 1.
    angle : (slow, fast) array
        Scattering angle, radians.
    bins : int
        Number of bins of the scattering angle. Within a bin the profile is interpolated.

    Raises
    ------
    HklflowError
        If the groups are for another shape, leave good pixels out, or some groups share no
        scattering angle with others, so that their factors are not determined.
    """
    groups.require(good.shape)
    groups.require_partition(~good)
    use = good & (exposure > 0)
    label, n = groups.labels[use] - 1, len(groups.names)
    at = angle[use]
    edges = np.linspace(at.min(), at.max(), bins + 1)
    ring = np.clip(np.digitize(at, edges) - 1, 0, bins - 1)
    cell = label * bins + ring

    def cells(values: Floats) -> Floats:
        sums = np.bincount(cell, values, minlength=n * bins)
        return np.asarray(sums, np.float64).reshape(n, bins)

    observed, pixels = cells(counts[use]), groups.counts(~use)
    _require_connected(observed > 0, pixels > 0, groups.names)
    middle = np.array([np.bincount(ring, at, minlength=bins), np.bincount(ring, minlength=bins)])
    filled = middle[1] > 0
    factors, profile = np.where(pixels > 0, 1.0, 0.0), np.ones(bins)
    for _ in range(3):  # the shape of the profile within a bin follows from the last profile
        shape = np.interp(at, middle[0, filled] / middle[1, filled], profile[filled])
        expected = cells(exposure[use] * shape)
        factors, within = _scaled(observed, expected, factors)
        profile = _profile(ring, exposure[use] * factors[label], counts[use], bins)
    model = expected * factors[:, None] * within
    has = (model > 0) & (pixels > 0)[:, None]
    chi2 = np.sum((observed - model)[has] ** 2 / model[has])
    free = int(has.sum()) - int((pixels > 0).sum()) - int(filled.sum()) + 1
    relative = np.where(pixels > 0, factors, np.nan)
    answer = _relative(relative, _covariance(model, factors), pixels)
    return GroupResponse(answer.factors, answer.errors, pixels, float(chi2 / max(free, 1)))


def statistics(
    moments: Moments, bad: BoolImage, groups: PixelGroups
) -> list[dict[str, float | int | str | None]]:
    """Return a row of figures for each group.

    ``mean`` is in counts per pixel and frame; ``spread`` is the standard deviation of the pixels'
    means, and ``expected_spread`` that of equal pixels that count photons; ``dispersion`` is the
    median index of dispersion over the frames (1 for photons); ``zeros`` counts good pixels without
    a count. None: not measured.

    Raises
    ------
    HklflowError
        If the groups are for another shape.
    """
    groups.require(bad.shape)
    rows: list[dict[str, float | int | str | None]] = []
    for k, name in enumerate(groups.names, start=1):
        inside = groups.labels == k
        used = inside & ~bad & (moments.frames > 0)
        row: dict[str, Any] = {
            "group": name,
            "pixels": int(inside.sum()),
            "good": int(used.sum()),
            "counts": float(moments.total[used].sum()),
        }
        frames = moments.frames[used]
        mean = moments.total[used] / frames
        level = row["counts"] / frames.sum() if len(frames) else None
        index = moments.dispersion[used]
        index = index[np.isfinite(index)]
        rows.append(
            row
            | {
                "mean": level,
                "spread": float(mean.std(ddof=1)) if len(mean) > 1 else None,
                "expected_spread": None if level is None else float(
                    np.sqrt(level * np.mean(1 / frames))
                ),
                "dispersion": float(np.median(index)) if len(index) else None,
                "zeros": int((moments.total[used] == 0).sum()),
            }
        )  # fmt: skip
    return rows


def _relative(raw: Floats, covariance: Floats, pixels: Ints) -> GroupResponse:
    """Return the response relative to its mean over the pixels, with the error of this mean."""
    used = (pixels > 0) & np.isfinite(raw)
    if not used.any():
        raise HklflowError("no group has a good pixel; check the mask and the groups")
    share = np.where(used, pixels, 0) / pixels[used].sum()
    mean = float(share @ np.where(used, raw, 0.0))
    if not mean > 0:
        raise HklflowError("the groups have no counts; check the frames and the mask")
    factors = raw / mean
    turn = (np.eye(len(raw)) - np.outer(np.where(used, factors, 0.0), share)) / mean
    errors = np.sqrt(np.maximum(np.diag(turn @ covariance @ turn.T), 0.0))
    return GroupResponse(factors, np.where(used, errors, np.nan), pixels)


def _scaled(observed: Floats, expected: Floats, factors: Floats) -> tuple[Floats, Floats]:
    """Return factors (n,) and correction of the profile (bins,) of the largest likelihood."""
    for _ in range(_ROUNDS):
        modelled = factors @ expected
        within = np.divide(
            observed.sum(0), modelled, where=modelled > 0, out=np.ones_like(modelled)
        )
        modelled = expected @ within
        new = np.divide(observed.sum(1), modelled, where=modelled > 0, out=np.zeros_like(modelled))
        new = new / new[new > 0].mean()
        change = np.abs(new - factors).max()
        factors = new
        if change < _SETTLED:
            return factors, within * (observed.sum() / ((factors @ expected) @ within))
    raise HklflowError(
        f"the factors of the groups did not converge in {_ROUNDS} rounds (last change {change:.2g})"
        ": the groups share too few scattering angles; use groups that extend further along 2θ"
    )


def _profile(ring: Ints, expected: Floats, counts: Floats, bins: int) -> Floats:
    """Return counts relative to expected counts in each bin of the scattering angle."""
    above, below = (np.bincount(ring, x, minlength=bins) for x in (counts, expected))
    return np.divide(above, below, where=below > 0, out=np.zeros(bins))


def _covariance(model: Floats, factors: Floats) -> Floats:
    """Return the covariance of the factors, with a free profile (Schur complement)."""
    of_rings = model.sum(axis=0)
    share = np.divide(model, of_rings, where=of_rings > 0, out=np.zeros_like(model))
    information = np.diag(model.sum(axis=1)) - share @ model.T
    return np.asarray(np.outer(factors, factors) * np.linalg.pinv(information, rcond=1e-10,
                                                                 hermitian=True))  # fmt: skip


def _require_connected(seen: NDArray[np.bool_], used: NDArray[np.bool_],
                       names: tuple[str, ...]) -> None:  # fmt: skip
    """Refuse groups that share no scattering angle with the others."""
    members = np.flatnonzero(used)
    reached: BoolImage = np.zeros(len(names), np.bool_)
    reached[members[:1]] = True
    while True:
        rings = seen[reached].any(axis=0)
        further: BoolImage = reached | (used & seen[:, rings].any(axis=1))
        if np.array_equal(further, reached):
            break
        reached = further
    if lost := [names[i] for i in members if not reached[i]]:
        raise HklflowError(
            f"{len(lost)} groups, such as {lost[0]!r}, share no scattering angle with "
            f"{names[members[0]]!r}, so the scan cannot compare their responses; use a flood, or "
            "groups that overlap in 2θ (chips, not bands)"
        )
