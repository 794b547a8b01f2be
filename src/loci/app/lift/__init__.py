"""`loci lift`: options, one picture or many, and files of the objects."""
