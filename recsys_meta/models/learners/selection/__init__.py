"""Choice of a learner, or of a mixture of learners, for each newcomer."""
