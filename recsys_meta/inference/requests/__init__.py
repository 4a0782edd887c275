"""What a caller says of an entity, read and encoded for the model."""
