"""What flows between the stages, and how. Imports nothing of ours."""
