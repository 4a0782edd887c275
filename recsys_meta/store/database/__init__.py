"""Engine, column types, migrations, views and bulk access of the SQL database."""
