"""The application of `playloom.server` as many replicas on Ray Serve, behind one address."""
