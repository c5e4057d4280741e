"""The processes of a project as one: what each says of itself, and what they may be told."""
