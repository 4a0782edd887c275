"""Models, versions, aliases and traffic splits in SQL."""
