"""Items that came after a model was trained: their place among the scores of the items that the model knows."""
