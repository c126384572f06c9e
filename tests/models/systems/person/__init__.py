"""A system that renders one trained person, without a portrait."""
