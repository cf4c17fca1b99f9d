"""A MemoryCluster as processes of one machine."""
