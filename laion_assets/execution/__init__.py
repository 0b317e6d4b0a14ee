"""How the process of a run executes its steps, and how it ends. The steps themselves are in assets/."""
