"""The 3-D mask against the simulator's halos: recall of what is above 3 σ, loss of what is clean.

    python -m benchmarks.mask3d_truth

What is in a halo and what is clean: see `tests/truth/halos.py`.
"""

from tests.truth.halos import scene, score


def main() -> None:
    """Print the table."""
    print("gaps   dtype   flux  halo σ  seed   recall   clean flagged   halo voxels")
    for gaps in (True, False):
        for dtype in ("uint16", "uint32", "int32"):
            for flux, sigma, seed in ((1.0, 9.0, 1), (3.0, 6.0, 2), (10.0, 12.0, 3)):
                recall, lost, number = score(scene(gaps, flux, sigma, seed), dtype)
                print(
                    f"{gaps!s:6s} {dtype:7s} {flux:4g}  {sigma:6g}  {seed:4d}   "
                    f"{recall:6.2%}   {lost:13.2%}   {number:11d}"
                )


if __name__ == "__main__":
    main()
