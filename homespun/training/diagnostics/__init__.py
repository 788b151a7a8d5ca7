"""Steps and evaluations flow in; warnings with advice come out."""
