"""Every SQL statement of the service's own subjects, and nowhere else; those of the kit are beside what runs them."""
