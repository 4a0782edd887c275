"""The cold-start curve: evaluation on episodes, list metrics, tuning of baselines."""
