"""`loci play`: a walk in the browser."""
