"""The process that holds: parent of everything, owner of every descriptor that must survive."""
