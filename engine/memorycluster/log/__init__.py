"""The replicated log of a shard: its records, the rule by which readers accept them, and where it lives."""
