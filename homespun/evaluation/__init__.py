"""How well a trained model predicts text."""
