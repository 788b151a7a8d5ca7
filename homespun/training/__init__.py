"""Settings and text flow in; a folder with a trained model, its checkpoints and its metrics comes out."""
