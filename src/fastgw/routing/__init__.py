"""From entities to the compiled image that workers map: compile, image format, compile process."""
