"""Access to the kernel: /proc, cgroups, clone, inotify, users. Modules used by the shim need only the standard
library.
"""
