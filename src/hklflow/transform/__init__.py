"""Transform from pixels to voxels: coverage, sums of counts and norm, the estimator of S(Q)."""
