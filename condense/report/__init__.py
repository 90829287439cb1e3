"""Pictures, figures, tables and pages."""
