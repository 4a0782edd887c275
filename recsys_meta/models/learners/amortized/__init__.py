"""Learners whose adapted state is computed from the support in one pass, without a gradient step."""
