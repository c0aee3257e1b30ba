"""Controller, its encodings, and action scripts. No torch here."""
