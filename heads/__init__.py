"""Rendered heads: any photo on a 3D head, so that two people make exactly the same motion."""
