"""`loci walk`: options, generation and files of a walk."""
