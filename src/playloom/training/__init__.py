"""Training of tokenizer, decoder and world model on one loop."""
