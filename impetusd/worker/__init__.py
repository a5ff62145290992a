"""The child's side of a pool: template, serve, drain. It knows no supervisor, only its environment."""
