"""The engine: how it is built, configured and talked to."""
