"""Training of the tokenizer and of the world model, on one shared loop."""
