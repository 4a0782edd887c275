"""Types, schema, data set, errors and durable files: the layer that every other package imports."""
