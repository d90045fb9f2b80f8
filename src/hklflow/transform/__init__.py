"""From pixels to voxels: coverage, accumulation of counts and norm, the estimator of S(Q)."""
