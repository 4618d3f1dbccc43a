"""Animating one portrait end to end: the stages of a run, what is read and written, and the Python API."""
