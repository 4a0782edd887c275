"""Types, schema, data set and durable files: what every other package stands on."""
