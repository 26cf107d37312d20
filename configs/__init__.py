"""Complete, commented run files for `dbr train --config`; read them with importlib.resources."""
