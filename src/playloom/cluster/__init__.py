"""The application of `playloom.serving` as many replicas on Ray Serve, behind one address."""
