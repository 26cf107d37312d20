"""Kubernetes: a Job, whose pods the cluster itself replaces."""
