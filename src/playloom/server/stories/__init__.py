"""Stories: trees of frames that somebody explores. What a story is, what lies on disk of it, and what is made of it.

No model and no server here: `playloom.server` dreams the frames and answers for them."""
