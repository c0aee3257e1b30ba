"""A model for many users at once: the broker that batches them, and the HTTP application before it."""
