"""The intermediate representation: values, indices, scalar expressions, structured operations, graphs."""
