"""Schemas: the query in, the data out, and the token that joins the pages of a list."""
