"""A committed state: what it consists of, how it is written, verified, kept and read back."""
