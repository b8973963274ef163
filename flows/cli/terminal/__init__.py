"""What users see of a command in their terminal, and how it ends there."""
