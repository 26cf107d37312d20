"""What needs training, launching or insight together: the programs behind the commands."""
