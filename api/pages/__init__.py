"""Pages of the server for people, under `/ui`: one file for each entry of the navigation."""
