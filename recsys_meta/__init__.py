"""recsys-meta: meta-learning for the cold start of users, ads, cities or any other newcomer."""

__version__ = "0.1.0"
