"""`loci play`: a walk in the browser."""

WALK = "walk.loci"
"""The state of a walk, in the folder of each branch."""
