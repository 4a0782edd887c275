"""What the house remembers: SQL (the truth) and caches (derived, always safe to lose).

Import the room you need: ``engine``, ``migrate``, one repository for each noun, ``writer``, ``cache``.
"""
