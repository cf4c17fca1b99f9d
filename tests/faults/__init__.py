"""Fault tests: what the cluster did to its clients while its processes were killed and stopped."""
