"""Files that start runs on other machines: the start-up script, its service, an image, and policies for AWS."""
