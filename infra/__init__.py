"""Files that start runs on other machines. Empty until the release that brings launchers (CHANGELOG.md says which)."""
