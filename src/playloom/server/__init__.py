"""A model for many users at once: the scheduler that batches them, and the HTTP application before it."""
