"""The worker's room: started as a child process, imported by nobody."""
