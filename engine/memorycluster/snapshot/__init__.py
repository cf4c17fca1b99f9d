"""Snapshots of a shard: what one is, where it is kept, how it is made and used."""
