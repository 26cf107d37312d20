"""What a run is: names in a home, commit log, holder, status. Readable without torch, on any machine."""
