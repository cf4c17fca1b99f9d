"""How one node runs inside a Kubernetes pod: its two containers, and what they are told."""
