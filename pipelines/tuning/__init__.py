"""Search of hyper-parameters on meta-validation: search spaces, trials, workers that share a study, its report."""
