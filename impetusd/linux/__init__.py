"""The seam to the kernel: /proc, cgroups, clone, inotify, users. What the shim uses needs only the standard library."""
