"""A model and a machine flow in; memory, time and every open setting come out."""
