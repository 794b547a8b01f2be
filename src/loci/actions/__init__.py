"""Actions: their names, their network, and where they lead."""
