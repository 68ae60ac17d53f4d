"""How a run would spend its time, simulated."""
