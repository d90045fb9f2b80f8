"""Table of the steps of the page: each product belongs to a step by its file name."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """Files of one kind: a pattern of their names, and the caption of their pictures.

    ``{kind}`` in a pattern is ``transform`` or ``masked_transform``.
    """

    pattern: str
    caption: str = ""
    title: str = ""


@dataclass(frozen=True)
class Figure:
    """A number of the overview: its name, the product, the keys of the value, its format.

    ``expected`` are the lowest and the highest value of good data, or None.
    """

    name: str
    product: str
    keys: tuple[str, ...]
    form: str = "{:.4g}"
    expected: tuple[float | None, float | None] = (None, None)

    def as_expected(self, value: object) -> bool | None:
        """Return whether a value is expected; None if this is not known."""
        low, high = self.expected
        if not isinstance(value, int | float) or not math.isfinite(value):
            return None
        if self.expected == (None, None):
            return None
        return (low is None or value >= low) and (high is None or value <= high)


@dataclass(frozen=True)
class Step:
    """A step of the reduction; without ``figures``, the first numbers of its products are shown."""

    title: str
    products: tuple[Product, ...]
    figures: tuple[Figure, ...] = ()


_S, _M = "transform", "masked_transform"
_NONE = "reduced chi2 of no difference"
KINDS = {_S: "all pixels", _M: "3-D masked"}


# What is expected of good data. A reduced χ² is 1 if errors are those of counting, and is known to
# better than 0.05 for some thousand values; 20 % of χ² are 10 % of the errors. Half a pixel is
# where masks and boxes begin to miss spots (`max_shift` of `accept`); R and CC1/2 are those at
# which structures are published.
_CHI2 = (0.8, 1.2)
_SHARE_OF_PEAKS = (None, 0.05)  # `told_unindexed` of `accept`


def _of_kinds(
    name: str,
    product: str,
    keys: tuple[str, ...],
    form: str,
    expected: tuple[float | None, float | None] = (None, None),
) -> tuple[Figure, Figure]:
    """Return a number twice: for the volume of all pixels, and for the 3-D masked volume.

    What is expected holds for the second: sharp reflections differ between rotations and
    equivalents by the place of their voxels.
    """
    return (
        Figure(name, f"{product}_{_S}", keys, form),
        Figure(f"{name}, {KINDS[_M]}", f"{product}_{_M}", keys, form, expected),
    )


STEPS = (
    Step("Calibration", (Product("rings", "The calibrant's rings and their residuals."),)),
    Step(
        "Pixel mask",
        (Product("mask", "Mean of sampled frames; masked pixels in colour."),),
        (
            Figure("pixels masked", "mask", ("masked pixels", "masked"), "{:,}"),
            Figure(
                "reflections not masked",
                "mask",
                ("bright pixels that are reflections, not hot",),
                "{:,}",
            ),
            Figure(
                "too dark for dead pixels",
                "mask",
                ("too dark for dead pixels",),
                "{:.0%}",
                (None, 0.05),
            ),
        ),
    ),
    Step(
        "Frames",
        (
            Product("corrected", "Corrected frames and their stages of gain.", "corrected"),
            Product("statistics", "Largest count of each pixel; sums and background by frame."),
        ),
        (Figure("mean counts per pixel", "statistics", ("mean counts per pixel",)),),
    ),
    Step(
        "Artificial normalisation",
        (Product("artificial_normalization", "Response of the pixels, from the sample itself."),),
        (
            Figure(
                "spread of the response",
                "artificial_normalization",
                ("standard deviation of the response",),
                "{:.2%}",
            ),
        ),
    ),
    Step(
        "Peaks",
        (Product("peaks", "Peaks found over the largest count of each pixel."),),
        (Figure("peaks", "peaks", ("peaks",), "{:,}"),),
    ),
    Step(
        "Scale of the frames",
        (
            Product("scale", "Monitor, attenuators and transmission by frame."),
            Product(
                "refined_scale",
                "From repeated measurements of S(Q), on top: factor of the frames, and of the "
                "direction.",
                "from repeated measurements",
            ),
        ),
        (
            Figure(
                "frames about the curve",
                "scale",
                ("scatter of the frames about the curve",),
                "{:.2%}",
            ),
            Figure(
                "reduced χ² of repeated measurements",
                "refined_scale",
                ("reduced chi2 after",),
                "{:.3f}",
                _CHI2,
            ),
        ),
    ),
    Step(
        "Background",
        (
            Product("background", "Measured, background and rest against |Q|; factors by frame."),
            Product(
                "unmeasured_background",
                "Without a measurement: measured, background and rest against |Q| and azimuth. "
                "The band is the interval of the isotropic background, which is not subtracted.",
            ),
        ),
        (
            Figure("share of the background", "background", ("share of the background",), "{:.1%}"),
            Figure(
                "largest share of S that may be background",
                "unmeasured_background",
                ("largest share of S that may be background",),
                "{:.0%}",
            ),
        ),
    ),
    Step(
        "Orientation",
        (
            Product("parent", "Refinement of the parent.", "parent"),
            Product("residuals", "Observed minus predicted peaks along the scan.", "residuals"),
            Product("convergence", "Course of the converging loop.", "loop"),
            Product("orientation|accepted|converged|modules"),
        ),
        (
            Figure(
                "peaks not indexed",
                "orientation",
                ("symmetry", "fraction unindexed"),
                "{:.1%}",
                _SHARE_OF_PEAKS,
            ),
            Figure(
                "rmsd (pixel)", "orientation", ("metrics", "rmsd in pixels"), "{:.3f}", (None, 0.5)
            ),
            Figure(
                "rmsd (frame)", "orientation", ("metrics", "rmsd in frames"), "{:.3f}", (None, 0.5)
            ),
        ),
    ),
    Step(
        "Absorption",
        (
            Product(
                "absorption",
                "Transmission by the crystal's shape, by frame and 2θ, or over unknown shapes.",
            ),
        ),
        (
            Figure(
                "error of the common scale",
                "absorption",
                ("errors common to many voxels", "common scale"),
                "{:.1%}",
            ),
            Figure(
                "error that changes with frame and direction",
                "absorption",
                ("errors common to many voxels", "change with frame and direction (rms)"),
                "{:.2%}",
            ),
            Figure(
                "error that changes with |Q|",
                "absorption",
                ("errors common to many voxels", "change with |Q| (rms)"),
                "{:.2%}",
            ),
            Figure(
                "error that changes with the direction of Q",
                "absorption",
                ("errors common to many voxels", "change with the direction of Q (rms)"),
                "{:.2%}",
            ),
        ),
    ),
    Step(
        "3-D mask", (Product("frame_mask", "The frame that loses most, and the share by frame."),)
    ),
    Step(
        "Bragg reflections",
        (
            Product("reflections", "Integrated reflections.", "integrated"),
            Product("scaled", "Scale and Debye–Waller factor; the error model.", "scaled"),
            Product("structure_factors", "Statistics by resolution; absences.", "merged"),
        ),
        (
            Figure(
                "completeness",
                "structure_factors",
                ("overall", "completeness"),
                "{:.1%}",
                (0.9, None),
            ),
            Figure("R_meas", "structure_factors", ("overall", "R_meas"), "{:.2%}", (None, 0.15)),
            Figure("CC1/2", "structure_factors", ("overall", "CC1/2"), "{:.4f}", (0.95, None)),
        ),
    ),
    Step(
        "Absolute scale",
        (Product("absolute_scale", "Intensities and high angles against the structure."),),
        (
            Figure("electron units per S", "absolute_scale", ("factor",), "{:.5g}"),
            Figure("its error", "absolute_scale", ("sigma",), "{:.2g}"),
            Figure("method", "absolute_scale", ("method",), "{}"),
        ),
    ),
    Step(
        "Coverage",
        (Product("{kind}_coverage", "Exposure and relative error; measured share by shell."),),
    ),
    Step(
        "S(Q)",
        (Product("{kind}", "Planes through the origin; grey was not measured."),),
        (
            Figure("voxels measured", _S, ("coverage",), "{:.1%}"),
            Figure("voxels measured, 3-D masked", _M, ("coverage",), "{:.1%}"),
            Figure(
                "χ² between rotations",
                _S,
                ("rotations' reduced chi2 away from reflections",),
                "{:.2f}",
            ),
            Figure(
                f"χ² between rotations, {KINDS[_M]}",
                _M,
                ("rotations' reduced chi2 away from reflections",),
                "{:.2f}",
                _CHI2,
            ),
        ),
    ),
    Step(
        "Symmetrised",
        (
            Product("symm_{kind}", "Equivalents averaged: agreement and multiplicity."),
            Product("planes_symm_{kind}", "Chosen planes.", "planes"),
        ),
        (
            *_of_kinds("R of equivalents", "symm", ("R of equivalents",), "{:.2%}"),
            *_of_kinds(
                "χ² of equivalents", "symm", ("reduced chi2 of equivalents",), "{:.2f}", _CHI2
            ),
            *_of_kinds("CC1/2", "symm", ("CC1/2",), "{:.4f}"),
            *_of_kinds("voxels measured", "symm", ("coverage after",), "{:.1%}"),
        ),
    ),
    Step(
        "Punched and filled",
        (
            Product("filled_{kind}", "Without Bragg reflections, holes filled."),
            Product("planes_filled_{kind}", "Chosen planes.", "planes"),
        ),
        (
            *_of_kinds("punched", "filled", ("punched fraction of the measured",), "{:.1%}"),
            *_of_kinds(
                "pull of the fill", "filled", ("pull width of control holes",), "{:.2f}", _CHI2
            ),
        ),
    ),
    Step(
        "Pair distributions",
        (
            Product("delta_pdf_{kind}", "3D-ΔPDF: diffuse scattering alone.", "ΔPDF"),
            Product("planes_delta_pdf_{kind}", "Chosen planes of the 3D-ΔPDF.", "ΔPDF, planes"),
            Product("total_pdf_{kind}", "With the Bragg reflections.", "total PDF"),
            Product("planes_total_pdf_{kind}", "Chosen planes.", "total PDF, planes"),
        ),
        (
            *_of_kinds("resolution (Å)", "delta_pdf", ("resolution in angstrom",), "{:.2f}"),
            *_of_kinds("Parseval ratio", "delta_pdf", ("Parseval ratio",), "{:.4f}", (0.99, 1.01)),
        ),
    ),
    Step(
        "Difference to the reference",
        (Product("difference_{kind}", "S(Q) and 3D-ΔPDF minus the reference."),),
        (
            *_of_kinds("χ² of S(Q)", "difference", ("S(Q)", _NONE), "{:.2f}"),
            *_of_kinds("χ² of the 3D-ΔPDF", "difference", ("3D-ΔPDF", _NONE), "{:.2f}"),
        ),
    ),
    Step("Other", (Product(".*"),)),
)
"""All steps in the order of the page; the last step takes the products that fit no other step."""

SERIES = (
    Product("series", "Cell, mosaic width and scale.", "Against temperature"),
    Product(
        "features",
        "Correlation lengths and intensity of each diffuse feature; triangles are limits.",
        "Diffuse features",
    ),
    Product("order", "Reflections of each propagation vector, with the fit.", "Order parameters"),
    Product(
        "intensities",
        "Dashed: the change that all reflections share, from beam, volume, absorption or "
        "displacements. Off the dashed line the reflection itself changes, or thermal diffuse "
        "scattering under a weak peak, which rises with temperature.",
        "Bragg intensities",
    ),
)
CRYSTALS = (
    Product("scans", "ΔCC1/2, cell, scale and B of each scan; limits are dashed.", "Scans"),
    Product("structure_factors", "Statistics by resolution; absences.", "Merged"),
)
STACKS = (
    Product(
        "{kind}",
        "S(Q) integrated in a box: the reflection and the diffuse scattering in the box, of which "
        "the thermal part rises with temperature.",
        "Reflections",
    ),
    Product("symm_{kind}", "The same in the symmetrised S(Q).", "Symmetrised"),
    Product("delta_pdf_{kind}", "3D-ΔPDF at chosen vectors.", "3D-ΔPDF"),
    Product(
        "pdf_series_{kind}",
        "Significance of the change of each vector, and the vectors that change most, without "
        "what all vectors share.",
        "Changes of the 3D-ΔPDF",
    ),
    Product("cluster_{kind}", "Voxels that change alike: mean S(Q), and their places.", "Clusters"),
)
