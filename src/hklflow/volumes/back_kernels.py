"""Compiled loops of `back_transform`."""

import numpy as np

from hklflow.simd.jit import kernel


@kernel
def squares(metric, x, y, z, out):  # type: ignore[no-untyped-def]
    """Write |r|² (z, y, x) of points in fractions of the cell; ``metric`` (3, 3): Å²."""
    for n in range(z.size):
        for j in range(y.size):
            own = metric[1, 1] * y[j] * y[j]
            for i in range(x.size):
                square = metric[0, 0] * x[i] * x[i] + own + metric[2, 2] * z[n] * z[n]
                mixed = metric[0, 1] * x[i] * y[j] + metric[0, 2] * x[i] * z[n]
                out[n, j, i] = square + 2 * (mixed + metric[1, 2] * y[j] * z[n])


@kernel
def add_noise(squares, sigma, limits, weights, sums):  # type: ignore[no-untyped-def]
    """Add ``weights`` (z,) times σ² (z, y, x) of the voxels with |r|² within each of the limits.

    ``limits`` (n,) ascend to infinity; ``sums`` (n,).
    """
    for z in range(sigma.shape[0]):
        shells = np.zeros(limits.size)
        for y in range(sigma.shape[1]):
            row, errors = squares[z, y], sigma[z, y]
            shell, total = 0, 0.0
            for x in range(row.size):
                # Neighbours are nearly always in the same shell.
                while row[x] > limits[shell] or (shell > 0 and row[x] <= limits[shell - 1]):
                    shells[shell] += total
                    total = 0.0
                    shell += 1 if row[x] > limits[shell] else -1
                total += np.float64(errors[x] * errors[x])
            shells[shell] += total
        within = 0.0
        for shell in range(limits.size):
            within += shells[shell]
            sums[shell] += weights[z] * within


@kernel
def cut(values, squares, limit, out):  # type: ignore[no-untyped-def]
    """Copy planes (z, y, x) within a limit of |r|², x = 0 first instead of in the middle."""
    n_x = values.shape[2]
    middle = n_x // 2
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            row, from_zero, own = values[z, y], squares[z, y], out[z, y]
            for x in range(middle, n_x):
                own[x - middle] = row[x] if from_zero[x] <= limit else np.float32(0)
            for x in range(middle):
                own[x - middle + n_x] = row[x] if from_zero[x] <= limit else np.float32(0)


@kernel
def add_waves(waves, reach, cosine, sine, sums):  # type: ignore[no-untyped-def]
    """Add the waves of planes of r, as seen on planes of Q.

    Parameters
    ----------
    waves : (z, k, h) complex array
        The indices k are taken modulo the size.
    reach : int
    cosine, sine : (z, l) arrays
    sums : (l, k, h) array
        Gets the sum over z of cosine Re(waves) + sine Im(waves), k from -reach to reach.
    """
    n_z, n_k, n_h = waves.shape
    real, imaginary = np.empty((n_z, n_h), np.float32), np.empty((n_z, n_h), np.float32)
    for k in range(-reach, reach + 1):
        for z in range(n_z):
            row = waves[z, k % n_k]
            for h in range(n_h):
                real[z, h], imaginary[z, h] = row[h].real, row[h].imag
        for l in range(cosine.shape[1]):  # noqa: E741
            own = sums[l, k + reach]
            for z in range(n_z):
                c, s, a, b = cosine[z, l], sine[z, l], real[z], imaginary[z]
                for h in range(n_h):
                    own[h] += c * a[h] + s * b[h]
