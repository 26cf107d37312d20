"""The optimizers: a file each, named in the table of `training/optimizer.py`."""
