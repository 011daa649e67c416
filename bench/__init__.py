"""The benchmark of antiphon beside nginx as a plain relay; nothing of the server imports it."""
