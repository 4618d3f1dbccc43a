"""What binds the method to a base model: one file per backend, the only files that know it."""
