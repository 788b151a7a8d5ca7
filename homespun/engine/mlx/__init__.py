"""The engine on MLX, for Apple silicon: arrays flow in and come out, and are lazily computed in between."""
