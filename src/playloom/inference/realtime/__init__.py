"""Playing live: a clock that does not drift, input of which the newest wins, and figures that hide nothing."""
