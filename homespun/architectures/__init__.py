"""The name of a size, or a shape, flows in; every parameter with its initial values and its cost comes out."""
