"""The commands that users run."""
