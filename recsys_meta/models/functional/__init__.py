"""Pure tensor functions shared by learners and baselines."""
