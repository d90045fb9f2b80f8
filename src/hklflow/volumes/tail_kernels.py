"""Kernels of `tail_models` and `tails`.

Symmetric tensors (3, 3) have six numbers, in the order of `tail_models.products`.
"""

import numpy as np

from hklflow.simd.jit import kernel


@kernel
def responses(axes, divided, squares, points, found):  # type: ignore[no-untyped-def]
    """Add up dM/dΓ times q_i q_j over the points of each voxel, for `Family.slopes`.

    ``axes`` (p n, 3, 3) are the eigenvectors of Γ as columns, ``divided`` (p n, 3, 3) the divided
    differences of M, ``squares`` (p n, 6) q_i q_j. ``found`` (n, 6, 6, 6) gets the six numbers of M
    for those of Γ and those of q_i q_j.
    """
    one = np.array([0, 0, 0, 1, 1, 2])
    two = np.array([0, 1, 2, 1, 2, 2])
    turned, onto = np.empty((6, 6)), np.empty((6, 6))
    for n in range(len(axes)):
        a = axes[n]
        for i in range(6):
            for j in range(6):
                x, y, u, v = one[i], two[i], one[j], two[j]
                turned[i, j] = a[x, u] * a[y, v] + a[x, v] * a[y, u]
        for i in range(6):
            for j in range(6):
                total = 0.0
                for k in range(6):
                    u, v = one[k], two[k]
                    part = turned[i, k] * divided[n, u, v] * turned[j, k]
                    # Γ_uv and Γ_vu are two elements with one number.
                    total += 0.5 * part if u == v else part
                if one[j] == two[j]:
                    total *= 0.5
                # M_xy and M_yx have one coefficient.
                onto[i, j] = total if one[i] == two[i] else 2 * total
        own = found[n // points]
        for i in range(6):
            for j in range(6):
                for k in range(6):
                    own[i, j, k] += onto[i, j] * squares[n, k]


@kernel
def add(data, corners, offsets, centres, q, sums):  # type: ignore[no-untyped-def]
    """Add Qᵀ M Q to S (l, k, h) around reflections; voxels outside of the grid are left out.

    ``corners`` (g, 3) are the voxels of the reflections, ``offsets`` (n, 3) those around them, and
    ``sums`` (g, n, 6) M in them, at Q = ``centres`` (g, 3) + ``q`` (n, 3).
    """
    n_l, n_k, n_h = data.shape
    for i in range(len(corners)):
        for j in range(len(offsets)):
            l = corners[i, 0] + offsets[j, 0]  # noqa: E741
            k = corners[i, 1] + offsets[j, 1]
            h = corners[i, 2] + offsets[j, 2]
            if 0 <= l < n_l and 0 <= k < n_k and 0 <= h < n_h:
                x = centres[i, 0] + q[j, 0]
                y = centres[i, 1] + q[j, 1]
                z = centres[i, 2] + q[j, 2]
                m = sums[i, j]
                along_x = x * (m[0] * x + m[1] * y + m[2] * z)
                data[l, k, h] += along_x + y * (m[3] * y + m[4] * z) + z * m[5] * z
