"""What a user types: `main.py` finds the command, every other file is one. Nothing else in the package prints."""
