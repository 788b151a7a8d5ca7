"""A model shape flows in; parameters, initial values, cost and Hugging Face layout come out. One file a family."""
