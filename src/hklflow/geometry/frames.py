r"""Frames of reference: the only definition of all conventions.

Lab frame (NeXus / McStas)
    **z** along the beam, **y** up, **x** = **y** × **z** (to the left when looking downstream).
    Lengths in metres, angles in radians, wavelengths in ångström, scattering vectors in
    1/ångström **with** the factor 2π.

Pixel frame
    Coordinates ``(frame, slow, fast)``, in array order. Pixel ``i`` spans
    ``[i, i + 1)`` and its centre is at ``i + 0.5``. Frame ``z`` spans
    ``[z, z + 1)`` in the same way: the frame starts at ``z``, and its middle
    is at ``z + 0.5``. The scan angle at frame coordinate ``z`` is
    ``start + z * step``.

Detector
    ``r = origin + fast_coordinate * pixel_fast * f + slow_coordinate * pixel_slow * s``
    with the unit vectors ``f`` and ``s``, and ``origin``, the outer corner of
    pixel (0, 0). All are in the lab frame at the detector's setting.

Goniometer
    An ordered chain of axes; the first axis is fixed to the laboratory.
    ``R_lab_gonio = R(axis_0, angle_0) R(axis_1, angle_1) ...``. Each axis is
    given as a lab vector when all angles are zero; rotations are right-handed.

Crystal
    ``Q_lab = R_lab_gonio @ U_gonio_cryst @ B_cryst_hkl @ hkl``.
    B after Busing & Levy, Acta Cryst. 22, 457 (1967), times 2π: a* along
    the crystal's x, b* in its xy plane. U is a proper rotation.

Scattering
    ``k = 2π / λ``; direction of the scattered ray ``ŝ = r / |r|``;
    ``Q_lab = k (ŝ - ẑ)``.
"""
