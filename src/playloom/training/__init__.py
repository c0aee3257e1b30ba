"""Training of tokenizer, world model and heads on one loop."""
