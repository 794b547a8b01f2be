"""Studies that train models of their own: labels, pose noise, revisits."""
