"""A real Kubernetes for the tests, from package registries alone: a kind cluster, or just its API server."""
