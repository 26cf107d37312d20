"""Where a run's values are sent beside its own metrics file: a file a tracker."""
