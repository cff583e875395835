"""Pictures and pages of what models have learned."""
