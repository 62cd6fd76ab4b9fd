"""The PULP Siracusa cluster: eight RISC-V cores with shared FPUs, and a simulator that runs its programs."""
