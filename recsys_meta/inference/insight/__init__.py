"""Explanations, diagnostics and active elicitation."""
