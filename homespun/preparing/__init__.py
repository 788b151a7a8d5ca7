"""A text flows in, its tokens flow out before any training: on one machine, on several, or on a cluster."""
