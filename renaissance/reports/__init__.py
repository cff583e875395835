"""Pages and pictures of what runs have learned."""
