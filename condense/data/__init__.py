"""Datasets, their images, and what happens to pixels before a network sees them."""
