"""Scenes with digits that are drawn from a seed: the demo's frames, and what the digit reader was trained on."""
