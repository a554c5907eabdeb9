"""Measures mnist-tune against what a user would write or install otherwise; see README.md."""
