"""Trains the digit reader: scenes, training, export, int8, evaluation and cards (``python -m training``).

No part of what is installed; nothing else imports it but its tests.
"""
