"""From an INI file to what other engines run: compose files, Kubernetes objects, an image."""
