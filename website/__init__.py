"""What the documentation site is built with, beside mkdocs itself: see `mkdocs.yml`."""
