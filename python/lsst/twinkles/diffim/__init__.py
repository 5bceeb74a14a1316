"""Difference imaging for single-CCD exposures in a Butler repository."""
