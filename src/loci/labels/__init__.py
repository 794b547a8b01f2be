"""Actions for films: camera motion, measured or read from a file, as labels in three states."""
