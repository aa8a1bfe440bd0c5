"""The client's side of a cluster."""
