"""From pictures, masks and pointmaps, or files of them, to the inputs of the networks."""
