"""A run: its settings, its folder, and the order in which its rows are trained."""
