"""How the process of a run executes its steps, and how it ends. What the steps do is in assets/."""
