"""Command-line program: each command parses its options, calls one library function and prints."""
