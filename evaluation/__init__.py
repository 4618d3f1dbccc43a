"""Metrics, protocols and reports: what a finished video shows, told in numbers."""
