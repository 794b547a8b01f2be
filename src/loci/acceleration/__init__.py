"""When a step, a token or a voxel need not be computed."""
