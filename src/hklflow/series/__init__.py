"""S(Q) against temperature: what changes, and voxels that change alike."""
