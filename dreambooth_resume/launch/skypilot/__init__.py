"""SkyPilot: managed jobs on the cheapest machine of any cloud, which SkyPilot itself replaces."""
