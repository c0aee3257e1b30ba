"""The command line: parses, calls one library function, prints. Imported by nobody."""
