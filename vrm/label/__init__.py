"""People as a source of labels: a local page that shows two clips side by side, and a labeller that asks through it."""
