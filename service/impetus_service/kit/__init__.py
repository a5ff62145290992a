"""What any service of this kind is made of; it knows nothing of users, communications or another subject."""
