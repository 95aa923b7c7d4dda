"""Training of the bundled encoder: rendered frames, captions with known truth, two towers."""
