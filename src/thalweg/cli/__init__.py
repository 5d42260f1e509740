"""The command `thalweg`: one command a file, and what is slow to import is imported when it is used."""
