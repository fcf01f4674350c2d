"""The doors: the command line, the demo, and the orchestration of the stages. No maths lives here."""
