"""Relatives of MAML: each varies what adapts, at what rates, or what the outer loop sees of it."""
