"""The MemoryCluster resource: its manifest and its status."""
