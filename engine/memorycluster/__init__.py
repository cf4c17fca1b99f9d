"""MemoryCluster: a durable, Valkey-compatible in-memory database."""
