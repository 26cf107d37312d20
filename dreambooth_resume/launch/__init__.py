"""What gets an attempt a machine. Every launcher runs the same command, under the same rule of when to run it again."""
