"""Where a run's home lies: one contract (`base.py`), one file a store, one suite for all."""
