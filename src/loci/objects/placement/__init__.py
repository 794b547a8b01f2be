"""Where an object is: occupied voxels, its pose, the refinement of the pose, the ground."""
