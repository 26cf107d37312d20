"""The schema of the options: a file a section. `train.py` puts the sections together."""
