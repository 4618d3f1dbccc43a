"""What binds the method to a base model: one file per host, the only files that know it."""
