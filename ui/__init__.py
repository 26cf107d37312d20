"""The web page that shows runs while they train. Empty until the release that brings it (CHANGELOG.md says which)."""
