"""What a user may set: the schema, the readers of YAML and flags, and what may change when a run is resumed."""
