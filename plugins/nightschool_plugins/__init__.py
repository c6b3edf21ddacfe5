"""The built-in plugins, one a file, named `<stage>_<method>`."""
