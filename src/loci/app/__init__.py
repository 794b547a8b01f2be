"""What a user runs: the bodies of the commands."""
